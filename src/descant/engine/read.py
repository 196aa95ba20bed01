"""The sources' logits at the positions of one step: after each row's text, and after each token drafted for it."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

import torch
from jaxtyping import Int64
from torch import Tensor

from descant.rows import Row
from descant.scoring.base import Scoring
from descant.sources.sources import Sources
from descant.strategies.drafts import Drafts
from descant.types import Candidates, Logits


class Reading:
    """What the sources of a scoring say after a step's texts, read when it is first asked for, as far as it is needed.

    The expert reads texts and drafts in one pass, and so do other sources, but for the one that drafted: its logits
    are known up to its last draft, and it reads that when every draft has been judged.

    Parameters
    ----------
    sources
        The models. Each has at least the last token of every row left to read.
    scoring
        Whose sources are read.
    rows
        The active rows, before the step.
    drafts
        What was drafted for them.
    known
        Logits `[rows, vocab]` after each text of sources that have read it.
    exactly
        Whether the scores are wanted as they are, or up to one constant a position.
    skips
        Whether a source that costs a pass is left out where no position needs it; it catches up later.
    """

    def __init__(
        self,
        sources: Sources,
        scoring: Scoring,
        rows: Sequence[Row],
        drafts: Drafts,
        known: Mapping[str, Logits],
        *,
        exactly: bool,
        skips: bool,
    ) -> None:
        self._sources = sources
        self._scoring = scoring
        self._rows = rows
        self._drafts = drafts
        self._exactly = exactly
        self._skips = skips
        self._keep = drafts.longest + 1
        pairs = zip(rows, drafts.tokens, strict=True)
        self._texts = [[*row.tokens, *draft] if draft else row.tokens for row, draft in pairs]
        # [rows, keep, vocab], the last position of a row at the end
        self._blocks = {name: logits[:, None] for name, logits in known.items()}

    def at_drafts(self) -> dict[str, Logits]:
        """Return logits `[n, vocab]` by source where the drafted tokens stand, row by row."""
        return self._at(*self._drafts.positions, self._where_drafted, self._drafts.source)

    def at_ends(self, rows: Sequence[int]) -> dict[str, Logits]:
        """Return logits `[n, vocab]` by source after all drafts of some rows, which were accepted."""
        ahead = [len(self._drafts.tokens[row]) for row in rows]
        every = len(rows) == len(self._rows)
        return self._at(rows, ahead, lambda block: block[:, -1] if every else block[list(rows), -1])

    def _at(
        self,
        rows: Sequence[int],
        ahead: Sequence[int],
        where: Callable[[Tensor], Tensor],
        drafter: str | None = None,
    ) -> dict[str, Logits]:
        """Return logits at the positions that `where` takes out of a block; the drafter's are known there."""
        expert = where(self._block("expert"))
        others = self._scoring.sources[1:]
        costly = all(self._sources.costs_a_pass(name) and name != drafter for name in others)
        if others and costly and self._skips and self._needed is not None and not bool(where(self._needed).any()):
            return {"expert": expert, **dict.fromkeys(others, expert)}
        logits = {"expert": expert}
        for name in others:
            if name in self._sources.bridges:
                logits[name] = self._ask(name, rows, ahead, expert, where(self._asked))
            elif name == drafter:
                assert self._drafts.logits is not None
                logits[name] = self._drafts.at_positions(self._drafts.logits)
            else:
                logits[name] = where(self._block(name))
        return logits

    def _where_drafted(self, block: Tensor) -> Tensor:
        if len(self._rows) == 1:
            return block[0, :-1]
        rows, places = self._drafts.positions
        first = [self._keep - 1 - len(draft) for draft in self._drafts.tokens]
        return block[rows, [first[row] + place for row, place in zip(rows, places, strict=True)]]

    @cached_property
    def _needed(self) -> Candidates | None:
        """For which tokens the other sources matter, `[rows, keep, vocab]`."""
        return self._scoring.needed(self._block("expert"), exactly=self._exactly)

    @property
    def _asked(self) -> Candidates:
        """What a model with another tokenizer is asked about."""
        assert self._needed is not None, "such a model stands beside scorings that need some tokens only"
        return self._needed

    def _block(self, name: str) -> Logits:
        if name not in self._blocks:
            self._blocks[name] = self._read(name)
        return self._blocks[name]

    def _read(self, name: str) -> Logits:
        if name == self._drafts.source:
            # All rows read: those whose draft was rejected, the token that replaced it.
            self._sources.rewind([len(row.tokens) - 1 for row in self._rows], name)
            return self._sources.read((name,), [row.tokens for row in self._rows])[name]
        narrow = name != "expert" and self._sources.narrow(name) and self._needed is not None
        among = self._tokens if narrow else None
        return self._sources.read((name,), self._texts, self._keep, among=among)[name]

    def _tokens(self) -> Int64[Tensor, " tokens"]:
        """Return the tokens that matter at any position."""
        return self._asked.flatten(0, -2).any(0).nonzero()[:, 0]

    def _ask(self, name: str, rows: Sequence[int], ahead: Sequence[int], expert: Logits, asked: Candidates) -> Logits:
        """Return what a model with another tokenizer makes of tokens `ahead[i]` drafts beyond row `rows[i]`."""
        judged = torch.empty_like(expert)
        for place in sorted(set(ahead)):
            pairs = zip(self._texts, self._drafts.tokens, strict=True)
            texts = [text[: len(text) - max(0, len(draft) - place)] for text, draft in pairs]
            at = [position for position, number in enumerate(ahead) if number == place]
            judged[at] = self._sources.bridges[name].judge(
                texts, [rows[position] for position in at], expert[at], asked[at]
            )
        return judged

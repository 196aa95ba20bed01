"""The sources' logits at the positions of one step: after each row's text, and after each token drafted for it."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Int64
from torch import Tensor

from descant.rows import Row
from descant.sources.sources import Sources
from descant.strategies.drafts import Drafts
from descant.types import Candidates, Logits


class Reading:
    """What the sources say after a step's texts, read when it is first asked for.

    The expert reads texts and drafts in one pass, and so do other sources, but for the one that drafted: its logits
    are known up to its last draft, and it reads that when every draft has been judged.

    Parameters
    ----------
    sources
        The models. Each has at least the last token of every row left to read.
    rows
        The active rows, before the step.
    drafts
        What was drafted for them.
    candidates
        Tells from the expert's logits which tokens matter: a model with another tokenizer is asked for these.
    narrow
        Whether other models may leave out the logits of the rest too.
    """

    def __init__(
        self,
        sources: Sources,
        rows: Sequence[Row],
        drafts: Drafts,
        candidates: Callable[[Logits], Candidates],
        *,
        narrow: bool,
    ) -> None:
        self._sources = sources
        self._rows = rows
        self._drafts = drafts
        self._candidates = candidates
        self._narrow = narrow
        self._keep = drafts.longest + 1
        pairs = zip(rows, drafts.tokens, strict=True)
        self._texts = [[*row.tokens, *draft] if draft else row.tokens for row, draft in pairs]
        self._blocks: dict[str, Logits] = {}  # [rows, keep, vocab], the last position of a row at the end

    def at_drafts(self, name: str) -> Logits:
        """Return logits `[n, vocab]` of a source where the drafted tokens stand, row by row."""
        if name == self._drafts.source:
            assert self._drafts.logits is not None
            return self._drafts.at_positions(self._drafts.logits)
        if name in self._sources.bridges:
            return self._ask(name, *self._drafts.positions, self.at_drafts("expert"))
        block = self._block(name)
        if len(self._rows) == 1:
            return block[0, :-1]
        rows, places = self._drafts.positions
        first = [self._keep - 1 - len(draft) for draft in self._drafts.tokens]
        return block[rows, [first[row] + place for row, place in zip(rows, places, strict=True)]]

    def at_ends(self, name: str, rows: Sequence[int]) -> Logits:
        """Return logits `[n, vocab]` of a source after all drafts of some rows, which were accepted."""
        if name in self._sources.bridges:
            ahead = [len(self._drafts.tokens[row]) for row in rows]
            return self._ask(name, rows, ahead, self.at_ends("expert", rows))
        if name == self._drafts.source and name not in self._blocks:
            # All rows read: those whose draft was rejected, the token that replaced it.
            self._sources.rewind([len(row.tokens) - 1 for row in self._rows], name)
            texts = [row.tokens for row in self._rows]
            self._blocks[name] = self._sources.read((name,), texts)[name]
        ends = self._block(name)[:, -1]
        return ends if len(rows) == len(ends) else ends[list(rows)]

    def _block(self, name: str) -> Logits:
        if name not in self._blocks:
            among = self._tokens if self._narrow and self._sources.narrow(name) else None
            self._blocks[name] = self._sources.read((name,), self._texts, self._keep, among=among)[name]
        return self._blocks[name]

    def _tokens(self) -> Int64[Tensor, " tokens"]:
        """Return the tokens that matter at any position."""
        return self._candidates(self._block("expert")).flatten(0, -2).any(0).nonzero()[:, 0]

    def _ask(self, name: str, rows: Sequence[int], ahead: Sequence[int], expert: Logits) -> Logits:
        """Return what a model with another tokenizer makes of the candidates `ahead[i]` drafts beyond row `rows[i]`."""
        candidates = self._candidates(expert)
        judged = torch.empty_like(expert)
        for place in sorted(set(ahead)):
            pairs = zip(self._texts, self._drafts.tokens, strict=True)
            texts = [text[: len(text) - max(0, len(draft) - place)] for text, draft in pairs]
            at = [position for position, number in enumerate(ahead) if number == place]
            asked = [rows[position] for position in at]
            judged[at] = self._sources.bridges[name].judge(texts, asked, expert[at], candidates[at])
        return judged

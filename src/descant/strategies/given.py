"""Texts that are given: what they weigh under a scoring, token by token."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from descant.rows import Row
from descant.strategies.base import Strategy
from descant.strategies.drafts import Drafts
from descant.strategies.growth import Growth, Judged, Loop

_ENTRIES = 1 << 26
"""Logits held at once, over rows, positions, sources and vocabulary."""


@dataclass(frozen=True)
class Given(Strategy):
    """Let each row grow by a text that is given: a draft that stands, whatever the scores.

    Parameters
    ----------
    texts
        Token ids, at least one, by the place of a row in the call. A row ends with its text.
    """

    texts: tuple[tuple[int, ...], ...]

    @property
    def random(self) -> bool:
        return False

    def start(self, loop: Loop) -> Growth:
        return Reciting(self, loop)


class Reciting(Growth):
    """Blocks of positions that are read and scored together, as many as bound the memory for logits."""

    def __init__(self, strategy: Given, loop: Loop) -> None:
        super().__init__(loop)
        self._texts = strategy.texts

    def step(self) -> list[Row]:
        loop, rows = self.loop, self.loop.rows
        block = self._block()
        next_tokens = [self._texts[row.index][len(row.logprobs) :][:block] for row in rows]
        # The last token of a block is the next one after its drafts: it is not read before something follows it.
        drafts = Drafts([list(tokens[:-1]) for tokens in next_tokens])
        if loop.history is not None:
            loop.history.write(drafts.tokens)
        if drafts.longest:
            self._take(loop.judge_drafts(drafts), [token for draft in drafts.tokens for token in draft])
        self._take(loop.judge_ends(drafts=drafts), [tokens[-1] for tokens in next_tokens])
        return rows

    def _block(self) -> int:
        """Return how many positions a row has scored at once."""
        sources = self.loop.sources
        longest = max(row.limit for row in self.loop.rows)
        if not all(model.continues_in_blocks for model in sources.models):
            return longest  # further blocks would be read token by token
        held = len(self.loop.rows) * len(self.loop.scoring.sources) * max(sources.width, longest)
        return max(1, _ENTRIES // held)

    def _take(self, judged: Judged, token_ids: Sequence[int]) -> None:
        """Append tokens to their rows, of which none has ended before its last."""
        ids = torch.tensor(token_ids, device=judged.scores.device)
        rows = [self.loop.rows[number] for number in judged.rows]
        for position, (row, token_id, logprob) in enumerate(zip(rows, *judged.tokens(ids), strict=True)):
            if math.isnan(logprob):
                judged.fail(position, row)
            row.append(token_id, logprob)
        self.loop.record(judged, list(zip(rows, range(len(rows)), token_ids, strict=True)))

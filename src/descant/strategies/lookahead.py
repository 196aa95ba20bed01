"""The candidates of a contrastive search: read ahead, so that the choice knows what each would become."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from descant.models.hidden_states import HiddenStates
from descant.models.ragged import RaggedModel
from descant.numerics import choose
from descant.numerics.wide import log_total
from descant.rows import Row
from descant.strategies.growth import Growth, Loop
from descant.types import Chosen, Logits


class Lookahead(Growth):
    """What the expert has read of every row: all of its text, the last token included.

    The expert read that token while it was one of k candidates, so the logits of the next are at hand. Only the
    expert forks; other sources read what was chosen, one row a row, when they are asked. Forks stay while the same
    rows go on: they differ in their last token alone, and take over that of the chosen one.

    Parameters
    ----------
    loop
        Whose rows grow.
    k
        How many candidates a row has.
    select
        Returns the place of each row's best, from their log-probabilities and their likeness to the text, `[rows, k]`.
    """

    def __init__(self, loop: Loop, k: int, select: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__(loop)
        self._k = k
        self._select = select
        self._sources = sources = loop.sources
        assert isinstance(sources.expert, RaggedModel), "only ragged models show their hidden states"
        self._expert = sources.expert
        self._forks = 1
        self._names = ("expert", *(name for name in sources.others if not sources.costs_a_pass(name)))
        self._logits: dict[str, Logits] = {}  # [rows, vocab] after each text, of what shares the expert's pass
        self._hidden = HiddenStates()

    def join(self, joining: Sequence[Row]) -> None:
        """Read the prompts of rows that join, once it is sure that all will fit, forked."""
        rows = self.loop.rows
        self._unfork()
        self._sources.add_rows(len(joining), [row.other_prompts for row in joining])
        self._sources.reserve(len(rows), max(row.limit for row in rows), forks=self._k)
        read = self._sources.read(self._names, [row.tokens for row in rows], hidden=self._hidden)
        for name, logits in read.items():
            held = self._logits.get(name)
            self._logits[name] = logits[:, -1] if held is None else torch.cat([held, logits[:, -1]])

    def step(self) -> list[Row]:
        rows = self.loop.rows
        judged = self.loop.judge_ends(known=self._logits)
        for place, total in enumerate(log_total(judged.scores).tolist()):
            if not math.isfinite(total):
                judged.fail(place, rows[place])
        self.loop.emit(judged, self._choose(rows, judged.scores))
        return rows

    def keep_rows(self, rows: Sequence[int]) -> None:
        self._unfork()
        self._sources.keep_rows(rows)
        self._logits = {name: logits[list(rows)] for name, logits in self._logits.items()}
        self._hidden.keep_rows(rows)

    def _choose(self, rows: Sequence[Row], scores: Logits) -> Chosen:
        """Read the most probable tokens of every row, and return the one to take, which is kept read.

        Parameters
        ----------
        rows
            All rows.
        scores
            `[rows, vocab]`: processed; each row has a finite one.
        """
        ids, logprobs = choose.top(scores, self._k)
        count, k = ids.shape
        if self._forks == 1:
            self._expert.keep_rows([row for row in range(count) for _ in range(k)])
            self._forks = k
        ahead = HiddenStates()
        texts = [[*row.tokens, token] for row, tokens in zip(rows, ids.tolist(), strict=True) for token in tokens]
        read = self._sources.read(self._names, texts, hidden=ahead)
        units = ahead.last()
        best = self._select(logprobs, self._hidden.similarity(units.unflatten(0, (count, k))))
        forks = (torch.arange(count, device=best.device) * k + best).tolist()
        self._expert.copy_last([fork for fork in forks for _ in range(k)])
        self._logits = {name: logits[forks, -1] for name, logits in read.items()}
        self._hidden.append(0, [1] * count, units[forks, None])
        return ids.gather(-1, best[:, None])[:, 0]

    def _unfork(self) -> None:
        """Leave one row of each in the expert, before rows join or leave."""
        if self._forks > 1:
            self._expert.keep_rows(range(0, len(self._expert.lengths), self._forks))
            self._forks = 1

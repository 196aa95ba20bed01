"""The candidates of a contrastive search: read ahead, so that the choice knows what each would become."""

from collections.abc import Sequence

import torch

from descant.engine.rows import Row
from descant.models.hidden_states import HiddenStates
from descant.models.ragged import RaggedModel
from descant.numerics import choose
from descant.sources.sources import Sources
from descant.strategies import ContrastiveSearch
from descant.types import Chosen, Logits


class Lookahead:
    """What the expert has read of every row: all of its text, the last token included.

    The expert read that token while it was one of k candidates, so the logits of the next are at hand. Only the
    expert forks; other sources read what was chosen, one row a row, when they are asked. Forks stay while the same
    rows go on: they differ in their last token alone, and take over that of the chosen one.

    Parameters
    ----------
    strategy
        How candidates are chosen.
    sources
        The models.
    """

    def __init__(self, strategy: ContrastiveSearch, sources: Sources) -> None:
        self._strategy = strategy
        self._sources = sources
        assert isinstance(sources.expert, RaggedModel), "only ragged models show their hidden states"
        self._expert = sources.expert
        self._forks = 1
        self._names = ("expert", *(name for name in sources.others if not sources.costs_a_pass(name)))
        self._logits: dict[str, Logits] = {}  # [rows, vocab] after each text, of what shares the expert's pass
        self._hidden = HiddenStates()

    def join(self, rows: Sequence[Row], joining: Sequence[Row]) -> None:
        """Read the prompts of rows that join, once it is sure that all will fit, forked; `rows` ends with them."""
        self._unfork()
        self._sources.add_rows(len(joining), [row.other_prompts for row in joining])
        self._sources.reserve(len(rows), max(row.limit for row in rows), forks=self._strategy.k)
        read = self._sources.read(self._names, [row.tokens for row in rows], hidden=self._hidden)
        for name, logits in read.items():
            held = self._logits.get(name)
            self._logits[name] = logits[:, -1] if held is None else torch.cat([held, logits[:, -1]])

    def keep_rows(self, rows: Sequence[int]) -> None:
        """Make old row `rows[i]` the new row i, in the models as well."""
        self._unfork()
        self._sources.keep_rows(rows)
        self._logits = {name: logits[list(rows)] for name, logits in self._logits.items()}
        self._hidden.keep_rows(rows)

    def logits(self, name: str, rows: Sequence[Row]) -> Logits:
        """Return logits `[rows, vocab]` of a source after the texts of all rows."""
        if name in self._logits:
            return self._logits[name]
        return self._sources.read((name,), [row.tokens for row in rows])[name][:, -1]

    def choose(self, rows: Sequence[Row], scores: Logits) -> Chosen:
        """Read the most probable tokens of every row, and return the one to take, which is kept read.

        Parameters
        ----------
        rows
            All rows.
        scores
            `[rows, vocab]`: processed; each row has a finite one.
        """
        ids, logprobs = choose.top(scores, self._strategy.k)
        count, k = ids.shape
        if self._forks == 1:
            self._expert.keep_rows([row for row in range(count) for _ in range(k)])
            self._forks = k
        ahead = HiddenStates()
        texts = [[*row.tokens, token] for row, tokens in zip(rows, ids.tolist(), strict=True) for token in tokens]
        read = self._sources.read(self._names, texts, hidden=ahead)
        units = ahead.last()
        best = self._strategy.select(logprobs, self._hidden.similarity(units.unflatten(0, (count, k))))
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

"""Random histories and scores, and what both are good for: an oracle applied row by row."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor

from descant.processors import History

Oracle = Callable[[Tensor, Tensor], Tensor]
"""A transformers `LogitsProcessor`: `(input_ids [1, length], scores [1, vocab]) → scores`."""


@dataclass
class Case:
    history: History
    scores: Tensor

    @property
    def vocab(self) -> int:
        return self.scores.shape[1]

    def row(self, i: int) -> "Case":
        """One row alone, without its padding."""
        history, length = self.history, int(self.history.lengths[i])
        one = slice(i, i + 1)
        alone = History(history.tokens[one, :length], history.lengths[one], history.prompt_lengths[one])
        return Case(alone, self.scores[one])

    def expected(self, oracle: Callable[[int], Oracle]) -> Tensor:
        """The oracle's scores; it is made anew for each row, from the length of the row's prompt."""
        rows = [self.row(i) for i in range(len(self.scores))]
        made = [oracle(int(row.history.prompt_lengths)) for row in rows]
        return torch.cat([each(row.history.tokens, row.scores.clone()) for each, row in zip(made, rows, strict=True)])


def make_case(
    seed: int,
    *,
    rows: int = 3,
    vocab: int = 20,
    width: int = 10,
    dtype: torch.dtype = torch.float32,
    kind: str = "normal",
    forbidden: float = 0.0,
    sliced: bool = False,
) -> Case:
    """Make scores (`kind`: normal, tied, peaked, flat) and a ragged history whose padding is junk."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(rows, vocab, generator=generator, dtype=dtype) * 2
    if kind == "tied":
        scores = scores.round()
    elif kind == "peaked":
        scores = scores * 8
    elif kind == "flat":
        scores = torch.zeros_like(scores)
    ban = torch.rand(rows, vocab, generator=generator) < forbidden
    ban.scatter_(1, torch.randint(0, vocab, (rows, 1), generator=generator), False)  # one stays at least
    scores = scores.masked_fill(ban, -math.inf)

    lengths = torch.randint(0, width + 1, (rows,), generator=generator)
    prompts = (torch.rand(rows, generator=generator) * (lengths + 1)).long()
    tokens = torch.randint(0, vocab, (rows, width + sliced), generator=generator)
    junk = torch.tensor([-1, -(10**12), vocab, 10**12, 0])[torch.randint(0, 5, tokens.shape, generator=generator)]
    padding = torch.arange(width + sliced) >= lengths[:, None]
    tokens = torch.where(padding, junk, tokens)
    # A buffer that is longer than its texts, as decoding has it, is no contiguous tensor.
    return Case(History(tokens[:, :width], lengths, prompts), scores)


def cases(*, rows: int = 3, vocab: int = 24, width: int = 12) -> st.SearchStrategy[Case]:
    """Draw cases of all kinds, the plain ones most often, for they hold most tokens that a fault can move."""
    return st.builds(
        make_case,
        st.integers(0, 2**32),
        rows=st.sampled_from([rows, rows, 1]),
        vocab=st.sampled_from([vocab, vocab, vocab // 2, 2]),
        width=st.sampled_from([width, width, width // 2, 1, 0]),
        dtype=st.sampled_from([torch.float32, torch.float64]),
        kind=st.sampled_from(["normal", "normal", "normal", "tied", "peaked", "flat"]),
        forbidden=st.sampled_from([0.0, 0.0, 0.0, 0.5, 0.9, 1.0]),  # 1: all but one
        sliced=st.booleans(),
    )

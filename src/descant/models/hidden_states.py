"""The final hidden states of all tokens that rows of a model hold."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize


class HiddenStates:
    """What entered the output head at every token of every row, as directions: unit vectors, at least float32.

    Attributes
    ----------
    lengths
        How many tokens each row has.
    """

    def __init__(self) -> None:
        self.lengths: list[int] = []
        self._units = torch.zeros(0, 0, 0)  # [rows, room, width]; stale beyond a row's length

    def append(self, first_row: int, counts: Sequence[int], hidden: Float[Tensor, "rows tokens width"]) -> None:
        """Add the states of the first `counts[i]` tokens to row `first_row + i`; rows that are new begin empty."""
        end = first_row + len(counts)
        self.lengths += [0] * (end - len(self.lengths))
        starts = self.lengths[first_row:end]
        units = normalize(hidden if hidden.dtype == torch.float64 else hidden.float(), dim=-1)
        tokens, device = units.shape[1], units.device
        self._make_room(max(starts) + tokens, units)
        rows = torch.arange(first_row, end, device=device)[:, None]
        columns = torch.tensor(starts, device=device)[:, None] + torch.arange(tokens, device=device)
        self._units[rows, columns] = units
        self.lengths[first_row:end] = [start + count for start, count in zip(starts, counts, strict=True)]

    def keep_rows(self, rows: Sequence[int]) -> None:
        """Make old row `rows[i]` the new row i."""
        self._units = self._units[list(rows)]
        self.lengths = [self.lengths[row] for row in rows]

    def last(self) -> Float[Tensor, "rows width"]:
        """Return the direction of each row's last token."""
        return self._units[range(len(self.lengths)), [length - 1 for length in self.lengths]]

    def similarity(self, units: Float[Tensor, "rows k width"]) -> Float[Tensor, "rows k"]:
        """Return the greatest cosine of each direction with a token of its row."""
        width = max(self.lengths)
        cosines = units @ self._units[:, :width].mT
        lengths = torch.tensor(self.lengths, device=units.device)[:, None, None]
        stale = torch.arange(width, device=units.device) >= lengths
        return cosines.masked_fill(stale, -torch.inf).amax(-1)

    def _make_room(self, width: int, like: Float[Tensor, "rows tokens width"]) -> None:
        """Let every row have room for so many tokens, and then half as much again."""
        rows, room = self._units.shape[:2]
        if len(self.lengths) <= rows and width <= room:
            return
        grown = like.new_zeros(len(self.lengths), room if width <= room else width + width // 2, like.shape[-1])
        grown[:rows, :room] = self._units if self._units.numel() else 0
        self._units = grown

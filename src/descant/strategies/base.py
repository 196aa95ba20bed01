"""What a strategy is: how the next token is taken from the scores."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from descant.types import Chosen


@dataclass(frozen=True)
class Draws:
    """Where the rows' randomness comes from.

    Attributes
    ----------
    generators
        One a row, on the CPU.
    batch_rows
        Each row's place in the call.
    batch_size
        Rows in the call, finished ones included.
    """

    generators: Sequence[torch.Generator]
    batch_rows: Sequence[int]
    batch_size: int


class Strategy(ABC):
    """Chooses one token a row; a frozen dataclass, with all state in its arguments."""

    @abstractmethod
    def choose(self, scores: Float[Tensor, "n vocab"], draws: Draws) -> Chosen:
        """Return one token id a row; every row has at least one score above −inf."""

    @property
    def whole_batch(self) -> bool:
        """Whether all rows of a call must be decoded at once."""
        return False

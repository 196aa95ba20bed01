"""What a strategy is: how the next token is taken from the scores."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from descant.types import Chosen


@dataclass(frozen=True)
class Draws:
    """Where the randomness of each choice comes from.

    Attributes
    ----------
    generators
        One a choice, on the CPU. A generator may serve several choices of its row, which then take turns in order.
    batch_rows
        Each choice's row by its place in the call.
    batch_size
        Rows in the call, finished ones included.
    """

    generators: Sequence[torch.Generator]
    batch_rows: Sequence[int]
    batch_size: int

    def uniforms(self, device: torch.device) -> Float64[Tensor, " n"]:
        """Draw a number in [0, 1) for each choice, in order; on a device that has float64."""
        return torch.stack([torch.rand((), generator=g, dtype=torch.float64) for g in self.generators]).to(device)


class Strategy(ABC):
    """How sequences grow; a frozen dataclass, with all state in its arguments."""

    @property
    @abstractmethod
    def random(self) -> bool:
        """Whether equal scores may lead to different tokens."""

    @property
    def whole_batch(self) -> bool:
        """Whether all rows of a call must be decoded at once."""
        return False

    @property
    def rows(self) -> int:
        """How many rows of the models a prompt takes at most."""
        return 1


class TokenStrategy(Strategy):
    """Gives every row its next token, whatever the other rows are."""

    @property
    def of_allowed(self) -> bool:
        """Whether choosing among the allowed tokens alone, in their order, is choosing among all."""
        return False

    @property
    def capturable(self) -> bool:
        """Whether `choose` is the same operations on tensors whatever their values, so that a graph can hold it."""
        return False

    @abstractmethod
    def choose(self, scores: Float[Tensor, "n vocab"], draws: Draws) -> Chosen:
        """Return one token id a row; every row has at least one score above −inf."""

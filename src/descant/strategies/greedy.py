"""Greedy decoding: the best token at every step."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from descant.numerics import choose
from descant.strategies.base import Choice, TokenStrategy
from descant.strategies.growth import Draws
from descant.types import Chosen


@dataclass(frozen=True)
class Greedy(TokenStrategy):
    """Take the token with the highest score; of equal ones, that with the lowest id."""

    @property
    def random(self) -> bool:
        return False

    @property
    def of_allowed(self) -> bool:
        return True

    @property
    def captured_choice(self) -> Choice | None:
        return self.choose

    @property
    def of_transformers(self) -> Mapping[str, Any] | None:
        return {}

    def choose(self, scores: Float[Tensor, "n vocab"], draws: Draws) -> Chosen:
        del draws
        return choose.argmax(scores)

"""Temperature."""

import math
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from descant.checks import number
from descant.options import option
from descant.processors.base import History, Processor

_COLDEST = 1e-20
"""Below about this, dividing overflows float32, and a distribution of infinities is none."""


@dataclass(frozen=True)
class Temperature(Processor):
    """Divide the scores by the temperature: `softmax(scores / T)`.

    Parameters
    ----------
    temperature
        Above 0 (at least 1e-20); below 1 sharpens the distribution, above 1 flattens it.
    """

    rank = 1
    of_transformers = "temperature"
    shift_invariant = True
    capturable = True

    temperature: float = option("temperature", "Divides the scores; 1 is neutral.")

    def __post_init__(self) -> None:
        temperature = number(
            "Temperature.temperature",
            self.temperature,
            lambda x: _COLDEST <= x < math.inf,
            "use a number above 0, or the strategy Greedy() for temperature 0",
        )
        object.__setattr__(self, "temperature", temperature)

    def __call__(self, history: History, scores: Float[Tensor, "n vocab"]) -> Float[Tensor, "n vocab"]:
        del history
        return scores / self.temperature

"""Sampling from the distribution that the scores define."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from descant.errors import SettingsError
from descant.numerics import choose
from descant.strategies.base import Choice, TokenStrategy
from descant.strategies.growth import Draws
from descant.types import Chosen


@dataclass(frozen=True)
class Sample(TokenStrategy):
    """Draw from `softmax(scores)`. Temperature and truncation are processors.

    Parameters
    ----------
    rng
        `"seeded"`: row i of a call draws from a generator made from the call's seed and i, so its text does not
        depend on its neighbours. `"transformers"`: one `torch.multinomial` a step over all rows of the call, from
        torch's global generator, so that `torch.manual_seed(s)` gives the tokens of `model.generate`.
    """

    rng: Literal["seeded", "transformers"] = "seeded"

    def __post_init__(self) -> None:
        if self.rng not in ("seeded", "transformers"):
            raise SettingsError(f'rng is {self.rng!r}; choose "seeded" or "transformers"')

    @property
    def random(self) -> bool:
        return True

    @property
    def whole_batch(self) -> bool:
        return self.rng == "transformers"

    @property
    def of_allowed(self) -> bool:
        return not self.whole_batch

    @property
    def captured_choice(self) -> Choice | None:
        return None if self.whole_batch else self.choose

    @property
    def of_transformers(self) -> Mapping[str, Any] | None:
        return {"do_sample": True, "top_k": 0}

    def choose(self, scores: Float[Tensor, "n vocab"], draws: Draws) -> Chosen:
        if self.rng == "transformers":
            return choose.multinomial_like_transformers(scores, draws.batch_rows, draws.batch_size)
        where = torch.device("cpu") if scores.device.type == "mps" else scores.device  # MPS has no float64
        return choose.categorical(scores.to(where), draws.uniforms(where)).to(scores.device)

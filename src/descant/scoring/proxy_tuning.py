"""Proxy tuning: the difference that tuning made to a small model, added to a large one."""

from collections.abc import Mapping
from dataclasses import dataclass

from descant.checks import number
from descant.options import option
from descant.scoring.base import Scoring
from descant.scoring.measures import floored
from descant.types import Logits


@dataclass(frozen=True)
class ProxyTuning(Scoring):
    """Steer a large model by a small one, tuned and untuned.

    Liu et al. 2024, "Tuning Language Models by Proxy" (arXiv 2401.08565). With the logits z of the expert, which is
    the large untuned model, z⁺ of a small tuned one and z⁻ of the small one before it was tuned:

        z(x) + α · (z⁺(x) − z⁻(x))

    The small models are the decoder's sources `"tuned"` and `"untuned"`.

    Parameters
    ----------
    alpha
        α ≥ 0: the strength; the paper's is 1.
    """

    sources = ("expert", "tuned", "untuned")
    capturable = True

    alpha: float = option("alpha", "The strength.", default=1.0)

    def __post_init__(self) -> None:
        remedy = "use a number from 0 (1 is usual)"
        alpha = number("ProxyTuning.alpha", self.alpha, lambda x: 0 <= x < float("inf"), remedy)
        object.__setattr__(self, "alpha", alpha)

    def __call__(self, logits: Mapping[str, Logits]) -> Logits:
        return logits["expert"] + self.alpha * (floored(logits["tuned"]) - floored(logits["untuned"]))

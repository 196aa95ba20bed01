"""Classifier-free guidance: further in the direction in which the prompt, or its difference to another, points."""

from collections.abc import Mapping
from dataclasses import dataclass

from descant.checks import number
from descant.options import option
from descant.scoring.base import Scoring
from descant.scoring.measures import extrapolate
from descant.types import Logits


@dataclass(frozen=True)
class Guidance(Scoring):
    """Amplify the prompt's influence.

    Sanchez et al. 2023, "Stay on topic with Classifier-Free Guidance" (arXiv 2306.17806). With p the expert's
    probabilities given the prompt, and p̄ the amateur's, given a negative prompt or none (`OtherPrompt`):

        log p̄(x) + γ · (log p(x) − log p̄(x))

    Parameters
    ----------
    scale
        γ ≥ 0: 1 is the expert alone, more amplifies, 0 is the amateur alone.
    """

    sources = ("expert", "amateur")
    capturable = True

    scale: float = option("guidance_scale", "1 is the expert alone, more amplifies the prompt.", default=1.5)

    def __post_init__(self) -> None:
        remedy = "use a number from 0 (1.5 is usual, 1 changes nothing)"
        scale = number("Guidance.scale", self.scale, lambda x: 0 <= x < float("inf"), remedy)
        object.__setattr__(self, "scale", scale)

    def __call__(self, logits: Mapping[str, Logits]) -> Logits:
        return extrapolate(logits["expert"].log_softmax(-1), logits["amateur"].log_softmax(-1), self.scale)

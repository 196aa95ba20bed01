"""DExperts: towards a model of wanted text, away from a model of unwanted text."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from descant.checks import number
from descant.options import option
from descant.scoring.base import Scoring
from descant.scoring.measures import floored
from descant.types import Logits


@dataclass(frozen=True)
class DExperts(Scoring):
    """Combine a base model with one that was tuned on wanted, and one on unwanted text.

    Liu et al. 2021, "DExperts: Decoding-Time Controlled Text Generation with Experts and Anti-Experts" (arXiv
    2105.03023). With the logits z of the expert, which is the paper's base model, z⁺ of its expert and z⁻ of its
    anti-expert:

        z(x) + α · (z⁺(x) − z⁻(x)), over the base model's nucleus of mass p; −inf elsewhere

    Those two are the decoder's sources `"positive"` and `"negative"`.

    Parameters
    ----------
    alpha
        α ≥ 0: the strength; the paper's is 2 against toxicity and 3.2 for sentiment.
    top_p
        p in (0, 1]: the smallest set of the base model's most probable tokens of this mass; 1 keeps all.
    """

    sources = ("expert", "positive", "negative")
    capturable = True

    alpha: float = option("alpha", "The strength.", default=2.0)
    top_p: float = option("top_p", default=0.9)

    def __post_init__(self) -> None:
        remedy = "use a number from 0 (2 is usual)"
        alpha = number("DExperts.alpha", self.alpha, lambda x: 0 <= x < float("inf"), remedy)
        top_p = number("DExperts.top_p", self.top_p, lambda x: 0 < x <= 1, "use a number above 0 and at most 1")
        object.__setattr__(self, "alpha", alpha)
        object.__setattr__(self, "top_p", top_p)

    def __call__(self, logits: Mapping[str, Logits]) -> Logits:
        steered = logits["expert"] + self.alpha * (floored(logits["positive"]) - floored(logits["negative"]))
        return steered if self.top_p == 1 else steered.masked_fill(self._outside(logits["expert"]), -torch.inf)

    def _outside(self, base: Logits) -> torch.Tensor:
        """Tell which tokens the base model's nucleus leaves out: those before them have the mass already."""
        probabilities, order = base.softmax(-1).sort(dim=-1, descending=True)
        before = probabilities.cumsum(-1) - probabilities
        return torch.zeros_like(before, dtype=torch.bool).scatter(-1, order, before >= self.top_p)

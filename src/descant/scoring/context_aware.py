"""Context-aware decoding: what the prompt's context adds to what the model believes without it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from descant.checks import number, shown
from descant.errors import SettingsError
from descant.options import option
from descant.scoring.base import Scoring
from descant.scoring.measures import entropy, extrapolate, jensen_shannon
from descant.types import Logits


@dataclass(frozen=True)
class ContextAware(Scoring):
    """Amplify the difference that a context makes.

    Shi et al. 2023, "Trusting Your Evidence: Hallucinate Less with Context-aware Decoding" (arXiv 2305.14739).
    With z_c the expert's logits, which reads the context, and z the amateur's, which does not (`OtherPrompt`):

    - a number α: `(1 + α) · z_c − α · z`.
    - `"divergence"`, AdaCAD (Wang et al. 2024, arXiv 2409.07394): the same with α = JSD(softmax z_c ‖ softmax z), in
      nats, at each position: context counts more where it contradicts.
    - `"entropy"`, ACD (Kim et al. 2024, arXiv 2408.01084): `z + α · (z_c − z)` with α = H(z) / (H(z) + H(z_c)), the
      entropies of both distributions: a context that leaves the model less sure counts less.

    Parameters
    ----------
    alpha
        α ≥ 0, or how it is found; 0.5 is the paper's for summaries, 1 for contexts that contradict the model.
    """

    sources = ("expert", "amateur")
    capturable = True

    alpha: float | Literal["divergence", "entropy"] = option("alpha", "The strength.", default=0.5)

    def __post_init__(self) -> None:
        if isinstance(self.alpha, str):
            if self.alpha not in ("divergence", "entropy"):
                raise SettingsError(
                    f'ContextAware.alpha is {shown(self.alpha)}; use a number from 0, "divergence" or "entropy"'
                )
            return
        remedy = 'use a number from 0 (0.5 is usual), "divergence" or "entropy"'
        alpha = number("ContextAware.alpha", self.alpha, lambda x: 0 <= x < float("inf"), remedy)
        object.__setattr__(self, "alpha", alpha)

    def __call__(self, logits: Mapping[str, Logits]) -> Logits:
        expert, amateur = logits["expert"], logits["amateur"]
        return extrapolate(expert, amateur, self._weight(expert, amateur))

    def _weight(self, expert: Logits, amateur: Logits) -> float | Float[Tensor, "*positions 1"]:
        if not isinstance(self.alpha, str):
            return 1 + self.alpha
        if self.alpha == "divergence":
            return 1 + jensen_shannon(expert, amateur)
        tiny = torch.finfo(expert.dtype).tiny  # if both are certain, they count alike
        with_context, without = entropy(expert) + tiny, entropy(amateur) + tiny
        return without / (without + with_context)

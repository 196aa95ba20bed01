"""Autocontrastive decoding: one early layer of the expert as its amateur, the expert's tail kept."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from descant.checks import flag, plausibility, whole
from descant.errors import SettingsError
from descant.options import option
from descant.scoring.base import Scoring
from descant.scoring.contrastive import Contrastive
from descant.types import Logits


@dataclass(frozen=True)
class AutoContrastive(Scoring):
    """Contrast the expert with one of its layers, and share out anew only what the expert gives to its head.

    Gera et al. 2023, "The Benefits of Bad Advice: Autocontrastive Decoding across Model Layers" (arXiv 2305.01628).
    With p_E the expert's probabilities, p_A those of its hidden state after some layers, and the head
    H = `{x : p_E(x) ≥ α · max p_E}`:

    - on the head, `p(x) = softmax_H(log p_E − log p_A)(x) · Σ_H p_E`;
    - elsewhere, `p(x) = p_E(x)`. The scores are log p.

    The paper trains a head for the layer; here the expert's own head reads it, and costs no pass.

    Parameters
    ----------
    layer
        How many decoder layers the amateur has; None: half of the expert's.
    alpha
        α in (0, 1], as in `Contrastive`.
    norm
        Whether the hidden state passes through the final norm before the head.
    """

    capturable = True

    layer: int | None = option("layer", default=None)
    alpha: float = option("alpha", "Among tokens at least X times as probable as the best.", default=0.1)
    norm: bool = True

    def __post_init__(self) -> None:
        if self.layer is not None:
            object.__setattr__(self, "layer", whole("AutoContrastive.layer", self.layer, 0, "give a number from 0"))
        flag("AutoContrastive.norm", self.norm)
        object.__setattr__(self, "alpha", plausibility("AutoContrastive.alpha", self.alpha))

    @property
    def sources(self) -> tuple[str, ...]:
        return ("expert", *self.exits)

    @property
    def exits(self) -> Mapping[str, tuple[int, bool]]:
        """None before `for_models` has told which layer is half of them."""
        return {} if self.layer is None else {f"layer {self.layer}": (self.layer, self.norm)}

    def for_models(self, layers: int, *, tied: bool, bytewise: Collection[str] = ()) -> "AutoContrastive":
        del tied, bytewise
        layer = layers // 2 if self.layer is None else self.layer
        if layer >= layers:
            raise SettingsError(
                f"AutoContrastive.layer is {layer}, and the expert has {layers}; give one of 0 to {layers - 1}"
            )
        return replace(self, layer=layer)

    @cached_property
    def _contrast(self) -> Contrastive:
        return Contrastive(self.alpha)

    def __call__(self, logits: Mapping[str, Logits]) -> Logits:
        expert = logits["expert"].log_softmax(-1)
        contrast = self._contrast({"expert": logits["expert"], "amateur": logits[self.sources[1]]})
        head = ~(contrast == -torch.inf)  # NaN is in the head, so that it shows
        mass = expert.masked_fill(~head, -torch.inf).logsumexp(-1, keepdim=True)
        return torch.where(head, contrast.log_softmax(-1) + mass, expert)

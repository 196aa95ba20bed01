"""DoLa: what the expert's last layer knows and an earlier one does not yet."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from descant.checks import flag, plausibility, shown, whole
from descant.errors import SettingsError
from descant.options import option
from descant.scoring.base import Scoring
from descant.scoring.contrastive import Contrastive
from descant.scoring.measures import jensen_shannon, mixture
from descant.types import Logits


@dataclass(frozen=True)
class DoLa(Scoring):
    """Contrast the expert with that of its own early layers which differs from it most.

    Chuang et al. 2023, "DoLa: Decoding by Contrasting Layers" (arXiv 2309.03883). With q_N the expert's
    distribution and q_j what its hidden state after j layers says through the output head:

    - M = the j among the candidate layers with the greatest JSD(q_N ‖ q_j), at each position by itself;
    - score `log q_N(x) − log q_M(x)` over the head `{x : q_N(x) ≥ α · max q_N}`; −inf elsewhere.

    All layers come from the expert's one pass; only the output head does more.

    Parameters
    ----------
    layers
        The candidates. `"high"` or `"low"`: every second layer of the upper or the lower half (of the last or the
        first 20, if there are more than 40); or numbers of layers, from 0, the embeddings. `"low"` begins at 2
        where the head shares the embeddings' weights, which would only repeat the last token.
    alpha
        α in (0, 1], as in `Contrastive`.
    norm
        Whether hidden states pass through the final norm before the head. The released code leaves it out.
    divergence
        `"jensen-shannon"`, as the paper has it; `"released"`: with the arguments of both its terms exchanged,
        `½ KL(m ‖ q_N) + ½ KL(m ‖ q_j)`, m = (q_N + q_j) / 2, as the released code and transformers compute it.
    """

    capturable = True

    layers: Literal["high", "low"] | Sequence[int] = option("layers", default="high")
    alpha: float = option("alpha", "Among tokens at least X times as probable as the best.", default=0.1)
    norm: bool = True
    divergence: Literal["jensen-shannon", "released"] = "jensen-shannon"

    def __post_init__(self) -> None:
        if not isinstance(self.layers, str):
            remedy = "give numbers of layers from 0"
            layers = tuple(sorted({whole("DoLa.layers", layer, 0, remedy) for layer in self.layers}))
            object.__setattr__(self, "layers", layers)
        if self.layers not in ("high", "low") and not (self.layers and isinstance(self.layers, tuple)):
            raise SettingsError(f'DoLa.layers is {shown(self.layers)}; give "high", "low" or numbers of layers')
        flag("DoLa.norm", self.norm)
        if self.divergence not in ("jensen-shannon", "released"):
            raise SettingsError(f'DoLa.divergence is {shown(self.divergence)}; use "jensen-shannon" or "released"')
        object.__setattr__(self, "alpha", plausibility("DoLa.alpha", self.alpha))

    @property
    def sources(self) -> tuple[str, ...]:
        return ("expert", *self.exits)

    @property
    def exits(self) -> Mapping[str, tuple[int, bool]]:
        """None before `for_models` has told which layers a bucket is."""
        layers = () if isinstance(self.layers, str) else self.layers
        return {f"layer {layer}": (layer, self.norm) for layer in layers}

    def for_models(self, layers: int, *, tied: bool, bytewise: Collection[str] = ()) -> "DoLa":
        del bytewise
        half, bounded = layers // 2, layers > 40
        chosen: Sequence[int]
        if self.layers == "high":
            chosen = range(layers - 20 if bounded else half, layers, 2)
        elif self.layers == "low":
            start = min(2, max(1, layers - 1)) if tied and layers > 1 else 0
            chosen = [start] if start == half else range(start, 20 if bounded else half, 2)
        else:
            chosen = [layer for layer in self.layers if isinstance(layer, int)]
        if not chosen or max(chosen) >= layers:
            raise SettingsError(
                f"DoLa({shown(self.layers)}) finds no such layer in an expert of {layers}; choose of 0 to {layers - 1}"
            )
        return replace(self, layers=tuple(chosen))

    @cached_property
    def _contrast(self) -> Contrastive:
        return Contrastive(self.alpha)

    def __call__(self, logits: Mapping[str, Logits]) -> Logits:
        expert = logits["expert"]
        early = torch.stack([logits[name] for name in self.sources[1:]])
        if len(early) == 1:
            return self._contrast({"expert": expert, "amateur": early[0]})
        divergences = torch.stack([self._diverge(expert, layer) for layer in early])
        most = divergences.argmax(0, keepdim=True).expand(1, *expert.shape)
        return self._contrast({"expert": expert, "amateur": early.gather(0, most)[0]})

    def _diverge(self, expert: Logits, early: Logits) -> Float[Tensor, "*positions 1"]:
        if self.divergence == "jensen-shannon":
            return jensen_shannon(expert, early)
        p, q, m = mixture(expert, early)
        return (m.exp() * (m - (p + q) / 2)).sum(-1, keepdim=True)

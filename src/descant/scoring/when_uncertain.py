"""Contrast only where the expert is uncertain."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import torch

from descant.checks import number, shown
from descant.errors import SettingsError
from descant.options import option
from descant.scoring.base import Scoring
from descant.scoring.measures import entropy
from descant.types import Candidates, Logits, Mask


@dataclass(frozen=True)
class WhenUncertain(Scoring):
    """Score by another scoring where the expert's entropy is high, and by the expert alone elsewhere.

    Yang et al. 2025, "Less is More: Improving LLM Reasoning with Minimal Test-Time Intervention" (arXiv 2510.13940),
    do so with classifier-free guidance: with H the entropy of the expert's distribution in nats, the scores are the
    scoring's where `H > threshold`, and the expert's logits where not. Sources that are not needed are not read.

    Parameters
    ----------
    scoring
        What scores where the expert is uncertain, such as `Guidance(1.5)` or `Contrastive()`.
    threshold
        Nats, from 0. At 0 the expert alone scores only where it leaves no choice.
    """

    scoring: Scoring
    threshold: float = option("threshold")

    def __post_init__(self) -> None:
        if not isinstance(self.scoring, Scoring):
            raise SettingsError(f"WhenUncertain.scoring is {shown(self.scoring)}; give a scoring: Guidance(1.5)")
        remedy = "use a number of nats from 0"
        threshold = number("WhenUncertain.threshold", self.threshold, lambda x: 0 <= x < float("inf"), remedy)
        object.__setattr__(self, "threshold", threshold)

    @property
    def sources(self) -> tuple[str, ...]:
        return self.scoring.sources

    @property
    def exits(self) -> Mapping[str, tuple[int, bool]]:
        return self.scoring.exits

    def for_models(self, layers: int, *, tied: bool, bytewise: Collection[str] = ()) -> "WhenUncertain":
        return replace(self, scoring=self.scoring.for_models(layers, tied=tied, bytewise=bytewise))

    @property
    def capturable(self) -> bool:
        return self.scoring.capturable

    def __call__(self, logits: Mapping[str, Logits]) -> Logits:
        expert = logits["expert"]
        return torch.where(self._certain(expert)[..., None], expert, self.scoring(logits))

    def needed(self, expert: Logits, *, exactly: bool = False) -> Candidates:
        uncertain = ~self._certain(expert)[..., None]
        needed = self.scoring.needed(expert, exactly=exactly)
        return uncertain.expand(expert.shape) if needed is None else needed & uncertain

    def _certain(self, expert: Logits) -> Mask:
        return entropy(expert)[..., 0] <= self.threshold

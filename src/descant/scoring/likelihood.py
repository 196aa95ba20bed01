"""Plain decoding: the expert's own logits."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from descant.scoring.base import Scoring
from descant.types import Logits


@dataclass(frozen=True)
class Likelihood(Scoring):
    """Score tokens by the expert alone.

    The scores are the expert's logits, unnormalised, as transformers hands them to its processors: a repetition
    penalty acts on logits, and would act differently on log-probabilities.
    """

    capturable = True
    of_transformers: ClassVar[Mapping[str, Any]] = {}

    def __call__(self, logits: Mapping[str, Logits]) -> Logits:
        return logits["expert"]

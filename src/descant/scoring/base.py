"""What a scoring is: logits of the named sources in, next-token scores out."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch

from descant.types import Logits, Mask


class Scoring(ABC):
    """Turns the logits of the named sources into scores, statelessly, over any number of positions.

    Implementations are frozen dataclasses, so that a result can record the setting that made it and two equal
    settings compare equal.
    """

    sources: ClassVar[tuple[str, ...]] = ("expert",)
    """The sources whose logits `__call__` reads: `"expert"`, and perhaps `"amateur"`."""

    @abstractmethod
    def __call__(self, logits: Mapping[str, Logits]) -> Logits:
        """Score every token of the vocabulary.

        Parameters
        ----------
        logits
            For each name in `sources`, logits of shape `[..., vocab]`, all of one shape, in float32 or float64.

        Returns
        -------
        Scores of the same shape; −inf where a token is not allowed. `softmax(scores)` is the distribution that
        sampling draws from. The arguments are not mutated.
        """

    @property
    def additive(self) -> bool:
        """Whether the scores of different positions may be added up as they are, which beam search does.

        Logits may not: a constant more at one position changes nothing there and everything in a sum. Their
        `log_softmax` is added up instead.
        """
        return False

    def settled(self, expert: Logits) -> Mask:
        """Tell at which positions the expert's logits alone leave a single token to choose.

        There the other sources need not be evaluated: the distribution is one on the expert's argmax.

        Parameters
        ----------
        expert
            Logits of shape `[..., vocab]`.

        Returns
        -------
        Booleans of shape `[...]`.
        """
        return torch.zeros(expert.shape[:-1], dtype=torch.bool, device=expert.device)

    @property
    def skips_settled(self) -> bool | None:
        """Whether to leave out the other sources where all rows are settled; None lets the engine decide."""
        return False

"""What a scoring is: logits of the named sources in, next-token scores out."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch

from descant.types import Candidates, Logits, Mask


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
            Where the amateur has another tokenizer, its are log-probabilities of the bytes of each token in `head`,
            which belong to no distribution over tokens and are taken as they are: `"amateur total"`, `[..., 1]`, then
            stands for the log of their sum, and is 0.

        Returns
        -------
        Scores of the same shape; −inf where a token is not allowed. `softmax(scores)` is the distribution that
        sampling draws from. The arguments are not mutated.
        """

    def head(self, expert: Logits) -> Candidates | None:
        """Tell which tokens' logits matter of sources other than the expert; None: all of them.

        Parameters
        ----------
        expert
            Logits of shape `[..., vocab]`.
        """
        del expert
        return None

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

"""What a scoring is: logits of the named sources in, next-token scores out."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch

from descant.types import Candidates, Logits, Mask


class Scoring(ABC):
    """Turns the logits of the named sources into scores, statelessly, over any number of positions.

    Implementations are frozen dataclasses, so that a result can record the setting that made it and two equal
    settings compare equal.
    """

    @property
    def sources(self) -> tuple[str, ...]:
        """The sources whose logits `__call__` reads: `"expert"` first, perhaps `"amateur"`, others of the decoder
        by the names they have there, and the names in `exits`."""
        return ("expert",)

    @property
    def exits(self) -> Mapping[str, tuple[int, bool]]:
        """Early exits of the expert among the sources, by name: after how many decoder layers (0: the embeddings),
        and whether the hidden state passes through the final norm."""
        return {}

    def for_expert(self, layers: int, *, tied: bool) -> "Scoring":
        """Return this scoring with everything settled that depends on the expert.

        Parameters
        ----------
        layers
            How many decoder layers the expert has.
        tied
            Whether its output head shares the weights of its embeddings.

        Raises
        ------
        SettingsError
            If the expert has not the layers that the scoring needs.
        """
        del layers, tied
        return self

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
        Logits
            Scores of the same shape; −inf where a token is not allowed. `softmax(scores)` is the distribution that
            sampling draws from. The arguments are not mutated.
        """

    @property
    def capturable(self) -> bool:
        """Whether a call is the same operations on the logits' device whatever their values, as a graph needs it.

        One that does not say so runs outside of graphs.
        """
        return False

    @property
    def additive(self) -> bool:
        """Whether the scores of different positions may be added up as they are, which beam search does.

        Logits may not: a constant more at one position changes nothing there and everything in a sum. Their
        `log_softmax` is added up instead.
        """
        return False

    def head(self, expert: Logits) -> Candidates | None:
        """Tell which tokens' logits matter of sources other than the expert; None: all of them.

        Parameters
        ----------
        expert
            Logits of shape `[..., vocab]`.
        """
        del expert
        return None

    @property
    def head_suffices(self) -> bool:
        """Whether other sources may be −inf outside `head`: the scores of a position then change by one constant."""
        return False

    def settled(self, expert: Logits) -> Mask:
        """Tell at which positions the expert's logits alone decide the scores, which are those of `alone`.

        There the other sources need not be evaluated.

        Parameters
        ----------
        expert
            Logits of shape `[..., vocab]`.

        Returns
        -------
        Mask
            Booleans of shape `[...]`.
        """
        return torch.zeros(expert.shape[:-1], dtype=torch.bool, device=expert.device)

    def alone(self, expert: Logits) -> Logits:
        """Return the scores of settled positions; by default all of the distribution is on the expert's best token.

        Parameters
        ----------
        expert
            Logits `[..., vocab]` of positions that are settled.
        """
        best = expert.max(-1, keepdim=True)
        # NaN stays visible: the only score of a position is its best logit less itself.
        return torch.full_like(expert, -math.inf).scatter_(-1, best.indices, best.values - best.values)

    @property
    def skips_settled(self) -> bool | None:
        """Whether to leave out the other sources where all rows are settled; None lets the engine decide."""
        return False

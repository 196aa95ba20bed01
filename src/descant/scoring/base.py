"""What a scoring is: logits of the named sources in, next-token scores out."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from typing import Any

from descant.types import Candidates, Logits


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

    def for_models(self, layers: int, *, tied: bool, bytewise: Collection[str] = ()) -> "Scoring":
        """Return this scoring with everything settled that depends on the models.

        Parameters
        ----------
        layers
            How many decoder layers the expert has.
        tied
            Whether its output head shares the weights of its embeddings.
        bytewise
            Sources with another tokenizer. Their values are log-probabilities of the bytes of each token that was
            `needed`, which belong to no distribution over tokens; the other tokens are as probable as to the expert.

        Raises
        ------
        SettingsError
            If the expert has not the layers that the scoring needs.
        """
        del layers, tied, bytewise
        return self

    @abstractmethod
    def __call__(self, logits: Mapping[str, Logits]) -> Logits:
        """Score every token of the vocabulary.

        Parameters
        ----------
        logits
            For each name in `sources`, logits of shape `[..., vocab]`, all of one shape, in float32 or float64.

        Returns
        -------
        Logits
            Scores of the same shape; −inf where a token is not allowed. `softmax(scores)` is the distribution that
            sampling draws from. The arguments are not mutated.
        """

    @property
    def of_transformers(self) -> Mapping[str, Any] | None:
        """The settings of `GenerationConfig` that give the same scores; None where transformers has no such method."""
        return None

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

    def needed(self, expert: Logits, *, exactly: bool = False) -> Candidates | None:
        """Tell for which tokens, at which positions, the logits of the other sources matter; None: for all.

        Those of other tokens may be anything, and of positions without any they need not be read at all.

        Parameters
        ----------
        expert
            Logits of shape `[..., vocab]`.
        exactly
            Whether scores are wanted as they are, to be shown or added up; or up to one constant a position, which
            changes neither a choice nor a distribution.
        """
        del expert, exactly
        return None

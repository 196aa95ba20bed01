"""Penalties on tokens that were already used."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from descant.checks import number
from descant.options import option
from descant.processors.base import History, Processor
from descant.processors.sparse import change_where, generated, places_of


@dataclass(frozen=True)
class RepetitionPenalty(Processor):
    """Divide the positive scores of all tokens in the history by the penalty and multiply the negative ones.

    Keskar et al. 2019, "CTRL" (arXiv 1909.05858), in transformers' reading: the prompt counts as
    history, and negative scores move away from zero too. It acts on scores as they are, so logits and
    log-probabilities are penalised differently.

    Parameters
    ----------
    penalty
        Above 0; 1 changes nothing, larger values discourage repetition.
    """

    rank = -6
    of_transformers = "repetition_penalty"
    capturable = True

    penalty: float = option("repetition_penalty", "Makes seen tokens X times less; 1 is neutral.")

    def __post_init__(self) -> None:
        penalty = number(
            "RepetitionPenalty.penalty",
            self.penalty,
            lambda x: 0 < x < math.inf,
            "use a number above 0 (1 is no penalty, 1.1 a mild one)",
        )
        object.__setattr__(self, "penalty", penalty)

    def __call__(self, history: History, scores: Float[Tensor, "n vocab"]) -> Float[Tensor, "n vocab"]:
        used = places_of(history.tokens) < history.lengths[:, None]
        return change_where(
            scores, history.tokens, used, lambda x: torch.where(x < 0, x * self.penalty, x / self.penalty)
        )


@dataclass(frozen=True)
class PresencePenalty(Processor):
    """Subtract the penalty from the score of every token that was generated at least once.

    The convention of OpenAI's API and of vLLM: the prompt does not count.

    Parameters
    ----------
    penalty
        0 changes nothing; negative values encourage repetition.
    """

    rank = -4
    shift_invariant = True
    capturable = True

    penalty: float = option("presence_penalty", "Taken once from tokens already generated.")

    def __post_init__(self) -> None:
        object.__setattr__(self, "penalty", _finite("PresencePenalty.penalty", self.penalty))

    def __call__(self, history: History, scores: Float[Tensor, "n vocab"]) -> Float[Tensor, "n vocab"]:
        return change_where(scores, history.tokens, generated(history), lambda x: x - self.penalty)


@dataclass(frozen=True)
class FrequencyPenalty(Processor):
    """Subtract the penalty from the score of every token as often as it was generated.

    The convention of OpenAI's API and of vLLM: the prompt does not count.

    Parameters
    ----------
    penalty
        0 changes nothing; negative values encourage repetition.
    """

    rank = -5
    shift_invariant = True
    capturable = True

    penalty: float = option("frequency_penalty", "Taken each time a token was generated.")

    def __post_init__(self) -> None:
        object.__setattr__(self, "penalty", _finite("FrequencyPenalty.penalty", self.penalty))

    def __call__(self, history: History, scores: Float[Tensor, "n vocab"]) -> Float[Tensor, "n vocab"]:
        # Sorted, a token's count is the length of its run: no counter over the vocabulary is needed. What
        # does not count becomes a token outside the vocabulary and so forms a run of its own.
        tokens = torch.where(generated(history), history.tokens, -1).sort(1).values
        runs = torch.searchsorted(tokens, tokens, right=True) - torch.searchsorted(tokens, tokens)
        return change_where(scores, tokens, tokens >= 0, lambda x: x - self.penalty * runs.to(x.dtype))


def _finite(name: str, value: object) -> float:
    return number(name, value, math.isfinite, "use a finite number (0 is no penalty)")

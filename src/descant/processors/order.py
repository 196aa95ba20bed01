"""The order in which transformers applies its processors."""

from collections.abc import Iterable

from descant.processors.bans import BadWords, LogitBias, MinNewTokens, NoRepeatNGram
from descant.processors.base import Processor
from descant.processors.mass import TopP, Typical
from descant.processors.penalties import FrequencyPenalty, PresencePenalty, RepetitionPenalty
from descant.processors.temperature import Temperature
from descant.processors.truncation import Epsilon, Eta, MinP, TopK, TopNSigma

_BEFORE: tuple[type[Processor], ...] = (
    LogitBias,
    RepetitionPenalty,
    FrequencyPenalty,
    PresencePenalty,
    NoRepeatNGram,
    BadWords,
    MinNewTokens,
)
_AFTER: tuple[type[Processor], ...] = (Temperature, TopK, TopP, MinP, Typical, Epsilon, Eta, TopNSigma)


def canonical_order(processors: Iterable[Processor]) -> tuple[Processor, ...]:
    """Sort processors into the order of `model.generate`.

    Bias, penalties and bans come first, then processors of the user's own, then temperature, top-k, top-p,
    min-p, typical, epsilon and eta. Top-nσ, which transformers lacks, is last. Processors of one kind keep
    their order.
    """
    return tuple(sorted(processors, key=_rank))


def _rank(processor: Processor) -> int:
    if type(processor) in _BEFORE:
        return _BEFORE.index(type(processor))
    if type(processor) in _AFTER:
        return len(_BEFORE) + 1 + _AFTER.index(type(processor))
    return len(_BEFORE)

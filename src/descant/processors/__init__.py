"""Which tokens are allowed: penalties, bans and truncation, each stateless in (history, scores).

penalties.py    RepetitionPenalty, PresencePenalty, FrequencyPenalty
bans.py         NoRepeatNGram, BadWords, LogitBias, MinNewTokens
temperature.py  Temperature
truncation.py   by a threshold: TopK, MinP, Epsilon, Eta, TopNSigma
mass.py         by an order and a mass: TopP, Typical
adapter.py      transformers' own processors
order.py        the order in which transformers applies them
"""

from descant.processors.adapter import TransformersProcessor
from descant.processors.bans import BadWords, LogitBias, MinNewTokens, NoRepeatNGram
from descant.processors.base import History, Processor
from descant.processors.mass import TopP, Typical
from descant.processors.penalties import FrequencyPenalty, PresencePenalty, RepetitionPenalty
from descant.processors.temperature import Temperature
from descant.processors.truncation import Epsilon, Eta, MinP, TopK, TopNSigma

__all__ = [
    "BadWords",
    "Epsilon",
    "Eta",
    "FrequencyPenalty",
    "History",
    "LogitBias",
    "MinNewTokens",
    "MinP",
    "NoRepeatNGram",
    "PresencePenalty",
    "Processor",
    "RepetitionPenalty",
    "Temperature",
    "TopK",
    "TopNSigma",
    "TopP",
    "TransformersProcessor",
    "Typical",
]

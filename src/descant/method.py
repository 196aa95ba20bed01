"""A decoding method: the answers to the three questions."""

from dataclasses import dataclass

from descant.processors.base import Processor
from descant.scoring.base import Scoring
from descant.strategies import Strategy


@dataclass(frozen=True)
class Method:
    """A decoding method: the answers to the three questions.

    Attributes
    ----------
    scoring
        What is a good next token?
    processors
        Which tokens are allowed? Applied in this order.
    strategy
        How does the sequence grow?
    """

    scoring: Scoring
    processors: tuple[Processor, ...]
    strategy: Strategy

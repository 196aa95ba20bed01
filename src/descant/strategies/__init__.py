"""How a sequence grows: greedily or by sampling."""

from descant.strategies.base import Draws, Strategy
from descant.strategies.greedy import Greedy
from descant.strategies.sample import Sample

__all__ = ["Draws", "Greedy", "Sample", "Strategy"]

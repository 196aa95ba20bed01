"""How a sequence grows: greedily, by sampling, or by verifying drafts."""

from descant.strategies.base import Draws, Strategy
from descant.strategies.greedy import Greedy
from descant.strategies.sample import Sample
from descant.strategies.speculative import PromptLookup, Proposal, Speculative

__all__ = ["Draws", "Greedy", "PromptLookup", "Proposal", "Sample", "Speculative", "Strategy"]

"""How a sequence grows: greedily, by sampling, by verifying drafts, or as the best of several."""

from descant.strategies.base import Draws, Strategy, TokenStrategy
from descant.strategies.beam import Beam, Candidate, Rivals
from descant.strategies.greedy import Greedy
from descant.strategies.sample import Sample
from descant.strategies.speculative import PromptLookup, Proposal, Speculative

__all__ = [
    "Beam",
    "Candidate",
    "Draws",
    "Greedy",
    "PromptLookup",
    "Proposal",
    "Rivals",
    "Sample",
    "Speculative",
    "Strategy",
    "TokenStrategy",
]

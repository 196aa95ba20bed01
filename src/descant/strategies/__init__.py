"""How a sequence grows: greedily, by sampling, by verifying drafts, as the best of several, or by looking ahead."""

from descant.strategies.base import Draws, Strategy, TokenStrategy
from descant.strategies.beam import Beam, Candidate, Rivals
from descant.strategies.contrastive_search import ContrastiveSearch
from descant.strategies.greedy import Greedy
from descant.strategies.sample import Sample
from descant.strategies.speculative import PromptLookup, Proposal, Speculative

__all__ = [
    "Beam",
    "Candidate",
    "ContrastiveSearch",
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

"""How a sequence grows: greedily, by sampling, by verifying drafts, as the best of several, or by looking ahead."""

from descant.strategies.base import Strategy, TokenStrategy
from descant.strategies.beam import Beam
from descant.strategies.contrastive_search import ContrastiveSearch
from descant.strategies.drafts import Proposal
from descant.strategies.greedy import Greedy
from descant.strategies.growth import Draws, Growth, Judged, Loop
from descant.strategies.sample import Sample
from descant.strategies.speculative import PromptLookup, Speculative

__all__ = [
    "Beam",
    "ContrastiveSearch",
    "Draws",
    "Greedy",
    "Growth",
    "Judged",
    "Loop",
    "PromptLookup",
    "Proposal",
    "Sample",
    "Speculative",
    "Strategy",
    "TokenStrategy",
]

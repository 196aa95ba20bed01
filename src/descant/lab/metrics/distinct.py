"""distinct-n: how much a corpus repeats itself, across texts.

    distinct-n = |unique n-grams of all texts| / |n-grams of all texts|       (Li et al. 2016, arXiv 1510.03055)

The paper divides by the number of words; by that of n-grams, as is usual since, a corpus without repetition has 1 for
every n. It falls as a corpus grows: compare corpora of one size only. Drawing a text twice lowers it, so there is no
bootstrap interval.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from descant.checks import whole
from descant.lab.metrics.base import Better, CorpusMetric, ngrams, words
from descant.lab.studies.generations import Generation


@dataclass(frozen=True)
class DistinctN(CorpusMetric):
    """The share of different n-grams among those of all texts.

    Parameters
    ----------
    n
        How many words make an n-gram.
    """

    n: int

    def __post_init__(self) -> None:
        whole("distinct-n's n", self.n, 1, "give a whole number from 1")

    @property
    def name(self) -> str:
        """distinct-n with its n."""
        return f"distinct-{self.n}"

    def better(self, column: str) -> Better:  # noqa: ARG002
        """More of them."""
        return "higher"

    def statistic(self, generations: Sequence[Generation]) -> Callable[[Sequence[int]], float]:
        """Return the share as a function of the texts."""
        texts = [list(ngrams(words(generation.text), self.n)) for generation in generations]

        def distinct(chosen: Sequence[int]) -> float:
            total = sum(len(texts[index]) for index in chosen)
            return len({ngram for index in chosen for ngram in texts[index]}) / total if total else math.nan

        return distinct

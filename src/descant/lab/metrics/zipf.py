"""Zipf coefficient: how steeply the frequency of words falls with their rank.

    log frequency(r) ≈ b − s · log r,    s by least squares over the ranks r = 1 … 5000

(Holtzman et al. 2020, arXiv 1904.09751, who compare it with that of human text: neither end is better.) Larger is more
concentrated on few words. Drawing a text twice makes rare words frequent, so there is no bootstrap interval.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from descant.checks import whole
from descant.lab.metrics.base import CorpusMetric, words
from descant.lab.studies.generations import Generation


@dataclass(frozen=True)
class Zipf(CorpusMetric):
    """The slope of log frequency over log rank, with its sign turned.

    Parameters
    ----------
    ranks
        How many of the most frequent words are fitted.
    """

    ranks: int = 5000

    def __post_init__(self) -> None:
        whole("zipf's ranks", self.ranks, 2, "fit at least 2 ranks")

    @property
    def name(self) -> str:
        """Its name."""
        return "zipf"

    def statistic(self, generations: Sequence[Generation]) -> Callable[[Sequence[int]], float]:
        """Return the coefficient as a function of the texts; NaN below two different words."""
        counts = [Counter(words(generation.text)) for generation in generations]

        def slope(chosen: Sequence[int]) -> float:
            total: Counter[str] = Counter()
            for index in chosen:
                total.update(counts[index])
            frequencies = [count for _, count in total.most_common(self.ranks)]
            if len(frequencies) < 2:
                return math.nan
            x, y = np.log(np.arange(1, len(frequencies) + 1)), np.log(frequencies)
            centred = x - x.mean()
            return float(-(centred @ y) / (centred @ centred))

        return slope

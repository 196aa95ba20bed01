"""rep-n and diversity: how much a text repeats itself.

    rep-n(x) = 1 − |unique n-grams of x| / |n-grams of x|            (seq-rep-n, Welleck et al. 2020, arXiv 1908.04319)
    diversity(x) = Π_{n=2..4} (1 − rep-n(x))                         (Su et al. 2022, arXiv 2202.06417)

Li et al. 2022 (2210.15097) report the same product. Both papers define it for a text; here every text has its own
figure, and a corpus their mean. A text too short for an n-gram has no rep-n, and that factor is left out of its
diversity; a text of fewer than two words has neither.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from descant.checks import whole
from descant.lab.metrics.base import Better, CorpusMetric, TextMetric, ngrams, words
from descant.lab.studies.generations import Generation
from descant.lab.studies.tasks import TaskSet

_ORDERS = (2, 3, 4)


@dataclass(frozen=True)
class RepN(TextMetric):
    """The share of a text's n-grams that occurred in it before.

    Parameters
    ----------
    n
        How many words make an n-gram.
    """

    n: int

    def __post_init__(self) -> None:
        whole("rep-n's n", self.n, 1, "give a whole number from 1")

    @property
    def name(self) -> str:
        """rep-n with its n."""
        return f"rep-{self.n}"

    def better(self, column: str) -> Better:  # noqa: ARG002
        """Fewer repetitions."""
        return "lower"

    def scores(self, generations: Sequence[Generation], task_set: TaskSet) -> Mapping[str, Sequence[float]]:  # noqa: ARG002
        """Return rep-n of each text, from 0 to 1."""
        return {self.name: [rep_n(generation.text, self.n) for generation in generations]}


@dataclass(frozen=True)
class Diversity(TextMetric):
    """The product of 1 − rep-n for n from 2 to 4, of each text by itself."""

    @property
    def name(self) -> str:
        """Its name."""
        return "diversity"

    def better(self, column: str) -> Better:  # noqa: ARG002
        """More of it."""
        return "higher"

    def scores(self, generations: Sequence[Generation], task_set: TaskSet) -> Mapping[str, Sequence[float]]:  # noqa: ARG002
        """Return the diversity of each text, from 0 to 1."""
        return {self.name: [diversity(generation.text) for generation in generations]}


@dataclass(frozen=True)
class SimCTGDiversity(CorpusMetric):
    """Diversity as SimCTG's released code computes it (github.com/yxuansu/SimCTG, simctg/evaluation.py at 0b56980).

    It differs from the equation: n-grams are counted within texts but summed over the corpus before they are divided,
    the last n-gram of every text is missed, and each rep-n is rounded to a hundredth of a per cent. Where all texts
    together have no n-gram it divides by zero; here the figure is then NaN.
    """

    @property
    def name(self) -> str:
        """Its name."""
        return "diversity (SimCTG)"

    @property
    def resampled(self) -> bool:
        """Sums over texts can be resampled."""
        return True

    def better(self, column: str) -> Better:  # noqa: ARG002
        """More of it."""
        return "higher"

    def statistic(self, generations: Sequence[Generation]) -> Callable[[Sequence[int]], float]:
        """Return the product of the corpus' three factors."""
        counts = [[_counts(words(generation.text)[:-1], n) for n in _ORDERS] for generation in generations]

        def product(chosen: Sequence[int]) -> float:
            factors = []
            for order in range(len(_ORDERS)):
                total = sum(counts[index][order][1] for index in chosen)
                if not total:
                    return math.nan
                unique = sum(counts[index][order][0] for index in chosen)
                factors.append(1 - round((1 - unique / total) * 100, 2) / 100)
            return math.prod(factors)

        return product


def rep_n(text: str, n: int) -> float:
    """Return the share of a text's n-grams that occurred in it before; NaN if it has none."""
    unique, total = _counts(words(text), n)
    return 1 - unique / total if total else math.nan


def diversity(text: str) -> float:
    """Return the product over the n-grams that a text has; NaN below two words."""
    reps = [rep for rep in (rep_n(text, n) for n in _ORDERS) if not math.isnan(rep)]
    return math.prod(1 - rep for rep in reps) if reps else math.nan


def make_diversity(*, simctg_compat: bool = False) -> Diversity | SimCTGDiversity:
    """Return diversity as its equation has it, or as SimCTG's released code computes it."""
    return SimCTGDiversity() if simctg_compat else Diversity()


def _counts(items: Sequence[str], n: int) -> tuple[int, int]:
    """Return how many different n-grams there are, and how many in all."""
    found = list(ngrams(items, n))
    return len(set(found)), len(found)

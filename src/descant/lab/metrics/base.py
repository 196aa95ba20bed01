"""What a metric is: figures of single texts, or one figure of a whole corpus."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal

from descant.lab.studies.generations import Generation
from descant.lab.studies.tasks import TaskSet

Better = Literal["higher", "lower"]


class Metric(ABC):
    """A frozen dataclass whose fields are its settings."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What reports call it."""

    @property
    def packages(self) -> Sequence[str]:
        """The packages that decide the figure, besides what computes all of them."""
        return ()

    def better(self, column: str) -> Better | None:  # noqa: ARG002
        """Return which end of a column is better; None where neither is, or it depends."""
        return None


class TextMetric(Metric):
    """Figures of each text by itself, averaged over a corpus; methods are compared text by text."""

    @abstractmethod
    def scores(self, generations: Sequence[Generation], task_set: TaskSet) -> Mapping[str, Sequence[float]]:
        """Return one or more columns, each with one figure a text: NaN where a text has none."""


class CorpusMetric(Metric):
    """One figure of a corpus, which is no mean over texts."""

    @property
    def resampled(self) -> bool:
        """Whether resampling texts gives an interval: not where a text that is drawn twice biases the figure."""
        return False

    @abstractmethod
    def statistic(self, generations: Sequence[Generation]) -> Callable[[Sequence[int]], float]:
        """Return the figure as a function of which texts count, by index: NaN where they give none."""


def words(text: str) -> list[str]:
    """Return what whitespace separates: the words that all metrics count."""
    return text.split()


def ngrams(items: Sequence[str], n: int) -> Iterator[tuple[str, ...]]:
    """Yield every n words in a row."""
    return (tuple(items[start : start + n]) for start in range(len(items) - n + 1))

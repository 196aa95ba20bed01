"""What decoding cost, as recorded when the texts were made: on that machine, with that batch, method after method.

A study's methods meet different states of a machine; `descant bench` interleaves them, and is what to quote for speed.
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from descant.lab.metrics.base import Better, CorpusMetric, TextMetric
from descant.lab.studies.generations import Generation
from descant.lab.studies.tasks import TaskSet


@dataclass(frozen=True)
class Latency(TextMetric):
    """Seconds from the submission of a text's batch until the text ended."""

    @property
    def name(self) -> str:
        """Its name."""
        return "latency"

    def scores(self, generations: Sequence[Generation], task_set: TaskSet) -> Mapping[str, Sequence[float]]:  # noqa: ARG002
        """Return each text's own."""
        return {self.name: [generation.latency for generation in generations]}


class PerToken(CorpusMetric):
    """A cost of all texts over all their tokens."""

    @property
    def resampled(self) -> bool:
        """A ratio of sums can be resampled."""
        return True

    def better(self, column: str) -> Better:  # noqa: ARG002
        """Less of it."""
        return "lower"

    @abstractmethod
    def cost(self, generation: Generation) -> float:
        """Return what one text cost."""

    def statistic(self, generations: Sequence[Generation]) -> Callable[[Sequence[int]], float]:
        """Return the ratio as a function of the texts."""
        costs = [self.cost(generation) for generation in generations]
        tokens = [len(generation.token_ids) for generation in generations]

        def ratio(chosen: Sequence[int]) -> float:
            total = sum(tokens[index] for index in chosen)
            return sum(costs[index] for index in chosen) / total if total else math.nan

        return ratio


@dataclass(frozen=True)
class Seconds(PerToken):
    """Milliseconds a token, the whole batch counted: the inverse of throughput.

    Without an interval: resampling texts of one run says nothing of how times vary from run to run.
    """

    @property
    def name(self) -> str:
        """Its name."""
        return "ms/token"

    @property
    def resampled(self) -> bool:
        """Not without further runs."""
        return False

    def cost(self, generation: Generation) -> float:
        """Return a text's share of its batch's time."""
        return generation.seconds * 1e3


@dataclass(frozen=True)
class Passes(PerToken):
    """Forward passes of the expert a token: 1 for plain decoding, fewer if drafts are accepted.

    Each is over one row for most strategies, over as many as there are beams or candidates for those that have them.
    """

    @property
    def name(self) -> str:
        """Its name."""
        return "passes/token"

    def cost(self, generation: Generation) -> float:
        """Return a text's passes."""
        return generation.passes

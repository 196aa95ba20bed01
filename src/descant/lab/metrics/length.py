"""Length: in words that whitespace separates, and in tokens of the expert, an end-of-sequence token included."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from descant.lab.metrics.base import TextMetric, words
from descant.lab.studies.generations import Generation
from descant.lab.studies.tasks import TaskSet


@dataclass(frozen=True)
class Length(TextMetric):
    """Two columns: `words` and `tokens`."""

    @property
    def name(self) -> str:
        """Its name."""
        return "length"

    def scores(self, generations: Sequence[Generation], task_set: TaskSet) -> Mapping[str, Sequence[float]]:  # noqa: ARG002
        """Return the numbers of words and tokens of each text."""
        return {
            "words": [float(len(words(generation.text))) for generation in generations],
            "tokens": [float(len(generation.token_ids)) for generation in generations],
        }

"""What the task set's own judge says: accuracy for closed questions, whatever else a world knows of a text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from descant.errors import DecodingError, SettingsError
from descant.lab.metrics.base import Better, TextMetric
from descant.lab.studies.generations import Generation
from descant.lab.studies.tasks import TaskSet


@dataclass(frozen=True)
class TaskVerdict(TextMetric):
    """One column for each score of the judge.

    Parameters
    ----------
    only
        The scores to report; None for all.
    lower
        Scores of which less is better; of all others more is.
    """

    only: Sequence[str] | None = None
    lower: Sequence[str] = ()

    @property
    def name(self) -> str:
        """Its name."""
        return "judge"

    def better(self, column: str) -> Better:
        """As the settings say."""
        return "lower" if column in self.lower else "higher"

    def scores(self, generations: Sequence[Generation], task_set: TaskSet) -> Mapping[str, Sequence[float]]:
        """Return the judge's scores, column by column.

        Raises
        ------
        DecodingError
            If the judge gives one text other scores than another.
        SettingsError
            If it gives none of those that were asked for.
        """
        judged = [dict(task_set.judge(generation.task, generation.text)) for generation in generations]
        names = list(judged[0]) if judged else []
        if any(set(scores) != set(names) for scores in judged):
            raise DecodingError(f"the judge of {task_set.name!r} names other scores for some texts; mend the task set")
        chosen = [name for name in names if self.only is None or name in self.only]
        if names and not chosen:
            asked = ", ".join(self.only or ())
            raise SettingsError(f"the judge of {task_set.name!r} has no {asked}; choose from {', '.join(names)}")
        return {name: [float(scores[name]) for scores in judged] for name in chosen}

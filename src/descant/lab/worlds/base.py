"""What every world offers."""

from collections.abc import Iterator
from random import Random
from typing import Protocol, runtime_checkable

from descant.lab.studies.tasks import TaskSet


@runtime_checkable
class TaskWorld(TaskSet, Protocol):
    """A generated truth: texts to train on, and tasks about it whose right answers are known."""

    def documents(self, rng: Random) -> Iterator[str]:
        """Yield fresh texts of the corpus without end."""

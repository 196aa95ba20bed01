"""Continuations on disk: one JSONL file for each task set, method and seed, named by a hash of what decides them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from descant.lab.studies.generations import Generation
from descant.lab.studies.lines import Lines
from descant.lab.studies.tasks import Task


@dataclass(frozen=True)
class Store:
    """The file of one cell.

    Attributes
    ----------
    folder, label, settings
        As in `Lines`; everything that decides the continuations.
    """

    folder: Path
    label: str
    settings: Mapping[str, Any]

    @property
    def lines(self) -> Lines:
        """The file's lines."""
        return Lines(self.folder, self.label, self.settings)

    @property
    def key(self) -> str:
        """The hash of the settings."""
        return self.lines.key

    @property
    def path(self) -> Path:
        """The file."""
        return self.lines.path

    def read(self, tasks: Sequence[Task]) -> dict[str, Generation]:
        """Return what there is for these tasks, by their ids.

        Raises
        ------
        DescantError
            If the file cannot be read.
        """
        known = {task.id: task for task in tasks}
        found: dict[str, Generation] = {}
        for record in self.lines.read():
            try:
                generation = Generation.of_record(record, known)
            except (ValueError, TypeError, KeyError, AttributeError):
                continue  # of a task beyond the limit: decoded again if it is asked for
            found[generation.task.id] = generation
        return found

    def append(self, generations: Iterable[Generation]) -> None:
        """Write continuations.

        Raises
        ------
        UsageError
            If the folder cannot be written to.
        """
        self.lines.append(generation.record() for generation in generations)

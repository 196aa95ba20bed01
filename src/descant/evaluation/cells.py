"""Continuations on disk: one JSONL file for each task set, method and seed, named by a hash of what decides them."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from descant.errors import DescantError, UsageError
from descant.evaluation.generations import Generation
from descant.evaluation.identity import digest
from descant.evaluation.tasks import Task


@dataclass(frozen=True)
class Store:
    """The file of one cell.

    The first line holds the settings, each other one a continuation. Lines are appended and flushed; one that was cut
    off in writing is as if it were not there.

    Attributes
    ----------
    folder
        Where the files are; made if it is missing.
    label
        For people: the first part of the file's name.
    settings
        Everything that decides the continuations, as plain data.
    """

    folder: Path
    label: str
    settings: Mapping[str, Any]

    @property
    def key(self) -> str:
        """The hash of the settings."""
        return digest(self.settings)

    @property
    def path(self) -> Path:
        """The file."""
        return self.folder / f"{re.sub(r'[^A-Za-z0-9.]+', '-', self.label).strip('-')}-{self.key}.jsonl"

    def read(self, tasks: Sequence[Task]) -> dict[str, Generation]:
        """Return what there is for these tasks, by their ids.

        Raises
        ------
        DescantError
            If the file cannot be read.
        """
        known = {task.id: task for task in tasks}
        found: dict[str, Generation] = {}
        try:
            lines = self.path.read_bytes().split(b"\n") if self.path.exists() else []
        except OSError as error:
            raise DescantError(f"cannot read {self.path}: {error.strerror}; give another folder") from error
        for line in lines[1:]:
            try:
                generation = Generation.of_record(json.loads(line), known)
            except (ValueError, TypeError, KeyError, AttributeError):
                continue  # cut off, or of a task beyond the limit: decoded again if it is asked for
            found[generation.task.id] = generation
        return found

    def append(self, generations: Iterable[Generation]) -> None:
        """Write continuations.

        Raises
        ------
        UsageError
            If the folder cannot be written to.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self.path.open("a+b") as file:
                if not file.tell():
                    file.write(_line({"settings": self.settings}))
                else:
                    file.seek(-1, 2)
                    if file.read(1) != b"\n":  # the last line was cut off
                        file.write(b"\n")
                for generation in generations:
                    file.write(_line(generation.record()))
                file.flush()
        except OSError as error:
            raise UsageError(f"cannot write to {self.folder}: {error.strerror}; give another folder") from error


def _line(value: Any) -> bytes:
    return (json.dumps(value, ensure_ascii=False) + "\n").encode()

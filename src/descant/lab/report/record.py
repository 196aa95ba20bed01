"""Everything that a report says, as plain data: `report.json`, and what the other forms are made from."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from descant.lab.bench.measure import conditions
from descant.lab.studies.config import StudyFile
from descant.lab.studies.scores import Cells, Estimate, assignments_of, contestants_of
from descant.lab.studies.signature import settings_key

_SAMPLES = 3
"""Tasks of each set whose texts are shown side by side."""


@dataclass(frozen=True)
class Report:
    """A study's results.

    Attributes
    ----------
    file
        The study.
    baseline
        What methods are compared with.
    task_sets, methods
        In the order of the study.
    scores
        Every figure.
    samples
        For each task set some tasks with every method's text.
    settings
        What each hash of settings in a signature stands for.
    conditions
        Machine and versions.
    command
        What makes it again.
    """

    file: StudyFile
    baseline: str
    task_sets: Sequence[str]
    methods: Sequence[str]
    scores: Sequence[Estimate]
    samples: Mapping[str, Sequence[Mapping[str, Any]]]
    settings: Mapping[str, Mapping[str, Any]]
    conditions: Mapping[str, Any]
    command: str

    def columns(self, task_set: str) -> list[str]:
        """Return what was measured on a task set, in the order of the study's metrics."""
        return list(dict.fromkeys(score.column for score in self.scores if score.task_set == task_set))

    def of(self, task_set: str, column: str) -> dict[str, Estimate]:
        """Return the figures of one column by method."""
        found = {s.method: s for s in self.scores if (s.task_set, s.column) == (task_set, column)}
        return {method: found[method] for method in self.methods if method in found}

    def best(self, task_set: str, column: str) -> str | None:
        """Return the best method, if it beats the baseline beyond doubt."""
        scores = [score for score in self.of(task_set, column).values() if not math.isnan(score.value.value)]
        if not scores or scores[0].better is None:
            return None
        sign = 1 if scores[0].better == "higher" else -1
        best = max(scores, key=lambda score: sign * score.value.value)
        return best.method if best.beats(self.file.level) else None

    def record(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "study": self.file.model_dump(mode="json"),
            "baseline": self.baseline,
            "scores": [asdict(score) for score in self.scores],
            "samples": self.samples,
            "settings": self.settings,
            "conditions": self.conditions,
            "command": self.command,
        }


def make_report(file: StudyFile, baseline: str, cells: Cells, scores: Sequence[Estimate], command: str) -> Report:
    """Return the report of a study that has run."""
    return Report(
        file,
        baseline,
        [assignment.label for assignment in assignments_of(cells)],
        [contestant.name for contestant in contestants_of(cells)],
        scores,
        _samples(cells),
        {settings_key(cell.settings): {**cell.settings, "seed": None} for cell, _ in cells},
        conditions(cells[0][0].contestant.decoder.expert.device),
        command,
    )


def _samples(cells: Cells) -> dict[str, list[dict[str, Any]]]:
    """Return the first tasks of each set, with the text of each method under its first seed."""
    samples: dict[str, list[dict[str, Any]]] = {}
    for cell, generations in cells:
        rows = samples.setdefault(
            cell.assignment.label,
            [
                {"prompt": entry.task.prompt, "reference": entry.task.reference, "texts": {}}
                for entry in generations[:_SAMPLES]
            ],
        )
        for row, entry in zip(rows, generations, strict=False):
            row["texts"].setdefault(cell.contestant.name, entry.text)
    return samples

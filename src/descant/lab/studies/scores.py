"""From continuations to figures: intervals, and comparisons with the baseline."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from descant.lab.metrics import CorpusMetric, Metric, TextMetric
from descant.lab.metrics.base import Better
from descant.lab.studies.generations import Generation
from descant.lab.studies.statistics import (
    Interval,
    difference_interval,
    holm,
    mean_interval,
    paired_test,
    statistic_interval,
)
from descant.lab.studies.study import Assignment, Cell, Contestant
from descant.lab.studies.tasks import Task


@dataclass(frozen=True)
class Estimate:
    """One figure of one method on one task set.

    Attributes
    ----------
    task_set, method, column
        Where it stands in the report.
    value
        The figure with its interval; the interval is NaN where there is none.
    texts
        How many texts have the figure.
    better
        Which end is better.
    difference
        From the baseline, by the same tasks; None for the baseline, and where methods are not compared text by text.
    p, corrected
        Two-sided p-value of the difference, and after Holm's correction over all comparisons of the study.
    signature
        A line that says what was measured, and how.
    """

    task_set: str
    method: str
    column: str
    value: Interval
    texts: int
    better: Better | None
    signature: str
    difference: Interval | None = None
    p: float | None = None
    corrected: float | None = None

    def beats(self, level: float) -> bool:
        """Whether the figure is better than the baseline's beyond doubt."""
        if self.corrected is None or self.difference is None or self.better is None:
            return False
        gain = self.difference.value if self.better == "higher" else -self.difference.value
        return self.corrected <= 1 - level and gain > 0


Cells = Sequence[tuple[Cell, Sequence[Generation]]]
"""Cells with their continuations, in the order of the tasks."""


def score(
    cells: Cells, metrics: Sequence[Metric], baseline: str, level: float, sign: Callable[[Cells, Metric, str], str]
) -> list[Estimate]:
    """Return every figure of a study.

    A task's figures under several seeds are averaged first, so that a task counts once; groups of tasks are resampled.

    Parameters
    ----------
    cells
        With their continuations.
    metrics
        What is measured.
    baseline
        The method that others are compared with, text by text.
    level
        Of intervals, and of the tests: 0.95.
    sign
        Returns the signature of one column, given the cells of one method on one task set.
    """
    scores: list[Estimate] = []
    grouped: dict[tuple[str, str], list[tuple[Cell, Sequence[Generation]]]] = {}
    for cell, generations in cells:
        grouped.setdefault((cell.assignment.label, cell.contestant.name), []).append((cell, generations))
    for metric in metrics:
        per_task = {
            key: _by_task(metric, own) if isinstance(metric, TextMetric) else {} for key, own in grouped.items()
        }
        for (task_set, method), own in grouped.items():
            tasks = [generation.task for generation in own[0][1]]
            if isinstance(metric, CorpusMetric):
                value = _of_corpus(metric, own, tasks, level)
                counted = sum(len(generations) for _, generations in own)
                signature = sign(own, metric, metric.name)
                better = metric.better(metric.name)
                scores.append(Estimate(task_set, method, metric.name, value, counted, better, signature))
            for column, means in per_task[task_set, method].items():
                base = per_task.get((task_set, baseline), {}).get(column) if method != baseline else None
                signature = sign(own, metric, column)
                better = metric.better(column)
                scores.append(_of_texts(task_set, method, column, means, tasks, base, level, better, signature))
    return _correct(scores)


def _by_task(metric: TextMetric, cells: Cells) -> dict[str, list[float]]:
    """Return each column's mean over seeds, task by task; NaN where no seed has a figure."""
    columns: dict[str, list[Sequence[float]]] = {}
    for cell, generations in cells:
        for column, figures in metric.scores(generations, cell.assignment.task_set).items():
            columns.setdefault(column, []).append(figures)
    return {column: [_mean(figures) for figures in zip(*seeds, strict=True)] for column, seeds in columns.items()}


def _mean(figures: Sequence[float]) -> float:
    known = [figure for figure in figures if not math.isnan(figure)]
    return sum(known) / len(known) if known else math.nan


def _of_texts(
    task_set: str,
    method: str,
    column: str,
    means: Sequence[float],
    tasks: Sequence[Task],
    base: Sequence[float] | None,
    level: float,
    better: Better | None,
    signature: str,
) -> Estimate:
    groups = [group_of(task) for task in tasks]
    known = [index for index, figure in enumerate(means) if not math.isnan(figure)]
    value = mean_interval([means[i] for i in known], [groups[i] for i in known], level=level)
    score = Estimate(task_set, method, column, value, len(known), better, signature)
    both = [index for index in known if base is not None and not math.isnan(base[index])]
    if base is None or not both or better is None:
        return score
    pair = [means[i] for i in both], [base[i] for i in both], [groups[i] for i in both]
    return replace(score, difference=difference_interval(*pair, level=level), p=paired_test(*pair))


def _of_corpus(metric: CorpusMetric, cells: Cells, tasks: Sequence[Task], level: float) -> Interval:
    """Return the mean over seeds of a corpus' figure, with its interval over tasks where it has one."""
    statistics = [metric.statistic(generations) for _, generations in cells]

    def average(chosen: Sequence[int]) -> float:
        return float(np.mean([statistic(chosen) for statistic in statistics]))

    if not metric.resampled:
        return Interval(average(range(len(tasks))), math.nan, math.nan)
    return statistic_interval(average, len(tasks), [group_of(task) for task in tasks], level=level)


def group_of(task: Task) -> str:
    """Return the group of a task: itself, unless it has one."""
    return f"task {task.id}" if task.group is None else f"group {task.group}"


def _correct(scores: Sequence[Estimate]) -> list[Estimate]:
    """Correct all p-values of a study together."""
    tested = [index for index, entry in enumerate(scores) if entry.p is not None]
    corrected: Mapping[int, float] = dict(zip(tested, holm([scores[i].p or 0.0 for i in tested]), strict=True))
    return [replace(entry, corrected=corrected.get(index)) for index, entry in enumerate(scores)]


def contestants_of(cells: Cells) -> list[Contestant]:
    """Return the methods, in the order of the study."""
    return list({cell.contestant.name: cell.contestant for cell, _ in cells}.values())


def assignments_of(cells: Cells) -> list[Assignment]:
    """Return the task sets, in the order of the study."""
    return list({cell.assignment.label: cell.assignment for cell, _ in cells}.values())

"""The tables of a report, as text, one for each task set."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from descant.lab.report.record import Report
from descant.lab.studies.scores import Estimate


@dataclass(frozen=True)
class Entry:
    """A cell of a table.

    Attributes
    ----------
    value
        The figure.
    interval
        Its interval; empty where there is none.
    mark
        ▲ or ▼ where it differs from the baseline beyond doubt.
    best
        Whether it is the best of its column, and better than the baseline beyond doubt.
    """

    value: str
    interval: str = ""
    mark: str = ""
    best: bool = False


def header(report: Report, task_set: str) -> list[str]:
    """Return the columns' names, with an arrow towards the better end where there is one."""
    names = []
    for column in report.columns(task_set):
        better = next(iter(report.of(task_set, column).values())).better
        names.append(column + {"higher": " ↑", "lower": " ↓", None: ""}[better])
    return names


def rows(report: Report, task_set: str) -> list[tuple[str, list[Entry]]]:
    """Return each method with its figures."""
    columns = report.columns(task_set)
    scores = {column: report.of(task_set, column) for column in columns}
    best = {column: report.best(task_set, column) for column in columns}
    return [
        (
            method,
            [_entry(scores[column].get(method), report.file.level, best=best[column] == method) for column in columns],
        )
        for method in report.methods
    ]


def legend(report: Report, best: str = "Bold") -> list[str]:
    """Return what a reader needs to understand the tables, a line each; `best`: how the best is marked."""
    compared = sum(score.p is not None for score in report.scores)
    percent = f"{report.file.level:.0%}"
    lines = [
        f"In brackets: {percent} bootstrap intervals, groups of tasks resampled; none for times, nor where a text "
        "drawn twice would bias the figure. ↑: higher is better; ↓: lower.",
        f"▲ ▼: above or below {report.baseline} by a paired test on the same tasks, after Holm's correction over all "
        f"{compared} comparisons of the study. {best}: the best, where it beats {report.baseline} so. Figures of a "
        "whole corpus, and those without a better end, are not tested.",
        f"Methods that draw have {len(report.file.seeds)} "
        f"{'seed' if len(report.file.seeds) == 1 else 'seeds'}, and a task's figures are their mean; "
        "the others need one run.",
    ]
    return lines if compared else [lines[0], lines[2]]


def _entry(score: Estimate | None, level: float, *, best: bool) -> Entry:
    if score is None or math.isnan(score.value.value):
        return Entry("–")
    interval = score.value
    bounds = "" if math.isnan(interval.low) else f"[{figure(interval.low)}, {figure(interval.high)}]"
    mark = ""
    if score.corrected is not None and score.difference is not None and score.corrected <= 1 - level:
        mark = "▲" if score.difference.value > 0 else "▼"
    return Entry(figure(interval.value), bounds, mark, best)


def figure(value: float) -> str:
    """Return a number with three digits after the point, fewer where it is large."""
    if value and abs(value) < 1e-3:
        return f"{value:.1e}"
    digits = 3 if abs(value) < 10 else 1 if abs(value) < 1000 else 0
    return f"{value:.{digits}f}"


def plain(entry: Entry) -> str:
    """Return a cell in one line."""
    return " ".join(part for part in (entry.value, entry.interval, entry.mark) if part)


def listed(values: Sequence[str]) -> str:
    """Return a line of a Markdown table."""
    return f"| {' | '.join(value.replace('|', chr(92) + '|') for value in values)} |"

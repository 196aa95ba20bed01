"""A report's figures as SVG that takes its text colour from the page."""

import io
import math
from collections.abc import Sequence
from typing import Any

from descant.lab.report.record import Report
from descant.lab.studies.scores import Estimate

_INK = "#010203"
"""Stands for the page's own text colour."""
_POINT, _BASE = "#2a8fc4", "#d9822b"
"""Blue and orange, told apart by every kind of sight, on white and on black."""

Figure = tuple[str, str]
"""A caption, and SVG."""


def figures(report: Report, task_set: str) -> list[Figure]:
    """Return quality against diversity, and a figure for each column whose figures differ and have intervals.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    """
    found: list[Figure] = []
    for column in report.columns(task_set):
        scores = [score for score in report.of(task_set, column).values() if not math.isnan(score.value.value)]
        bounds = {bound for score in scores for bound in (score.value.low, score.value.high)}
        if scores and scores[0].better is not None and len(bounds) > 1 and not math.isnan(scores[0].value.low):
            found.append(_intervals(report, task_set, column, scores))
    frontier = _frontier(report, task_set)
    return [frontier, *found] if frontier else found


def _intervals(report: Report, task_set: str, column: str, scores: Sequence[Estimate]) -> Figure:
    """Draw one point a method with its interval, the baseline as a line through all."""
    figure, axes = _new(0.9 + 0.32 * len(scores))
    for place, score in enumerate(scores):
        interval = score.value
        colour = _BASE if score.method == report.baseline else _POINT
        error = [[interval.value - interval.low], [interval.high - interval.value]]
        axes.errorbar(interval.value, place, xerr=error, fmt="o", color=colour, capsize=3)
        if score.method == report.baseline:
            axes.axvline(interval.value, color=_BASE, linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(scores)), [score.method for score in scores])
    axes.invert_yaxis()
    axes.margins(x=0.08, y=0.08)
    axes.set_xlabel(f"{column} ({scores[0].better} is better)")
    caption = f"{task_set}: {column}, with {report.file.level:.0%} intervals; dotted: {report.baseline}"
    return caption, _svg(figure, f"{task_set} {column}")


def _frontier(report: Report, task_set: str) -> Figure | None:
    """Draw the first column with a better end over diversity, if both were measured."""
    columns = report.columns(task_set)
    diversity = next((column for column in columns if column.startswith("diversity")), None)
    quality = next((column for column in columns if _is_quality(report, task_set, column)), None)
    if diversity is None or quality is None:
        return None
    across, up = report.of(task_set, diversity), report.of(task_set, quality)
    known = [m for m in up if m in across and not math.isnan(up[m].value.value + across[m].value.value)]
    if len({across[method].value.value for method in known}) < 2:
        return None
    figure, axes = _new(3.6)
    places: dict[tuple[float, float], list[str]] = {}
    for method in known:
        colour = _BASE if method == report.baseline else _POINT
        x, y = across[method].value, up[method].value
        errors = {
            name: [[value.value - value.low], [value.high - value.value]]
            for name, value in (("xerr", x), ("yerr", y))
            if not math.isnan(value.low)
        }
        axes.errorbar(x.value, y.value, **errors, fmt="o", color=colour, elinewidth=0.7, capsize=2)
        places.setdefault((x.value, y.value), []).append(method)
    for place, methods in places.items():  # methods that write the same texts share their label
        label = "\n".join(methods)
        axes.annotate(label, place, xytext=(5, 4), textcoords="offset points", fontsize=8, color=_INK)
    axes.margins(x=0.2, y=0.12)
    axes.set_xlabel(diversity)
    axes.set_ylabel(quality)
    return f"{task_set}: {quality} against {diversity}", _svg(figure, f"{task_set} frontier")


def _is_quality(report: Report, task_set: str, column: str) -> bool:
    named = column.startswith(("diversity", "rep-", "distinct-")) or column in ("ms/token", "passes/token")
    return not named and next(iter(report.of(task_set, column).values())).better is not None


def _new(height: float) -> tuple[Any, Any]:
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure as Canvas

    figure = Canvas(figsize=(5.2, height), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.subplots()
    figure.patch.set_alpha(0)
    axes.patch.set_alpha(0)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _svg(figure: Any, salt: str) -> str:
    """Return a figure as an element to stand in a page; the salt keeps its names apart from other figures'."""
    import matplotlib

    axes = figure.axes[0]
    axes.tick_params(colors=_INK)
    for part in (axes.xaxis.label, axes.yaxis.label, *axes.spines.values()):
        part.set_color(_INK)
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt, "font.family": "sans-serif"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :].replace(_INK, "currentColor")

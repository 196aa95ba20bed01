"""A study as a picture: the rates beside each other, and the rate at every draft length."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from descant.lab.bench.figures import Draft, Measurements
from descant.lab.bench.measure import Spread

_COLOURS = {"descant": "#1f6f8b", "transformers": "#c9a227"}


def draw(study: Measurements, path: Path, *, title: str) -> None:
    """Write a PNG.

    Parameters
    ----------
    study
        What is drawn.
    path
        Where to.
    title
        What stands above it: models and sizes.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = 2 if study.drafts else 1
    figure = Figure(figsize=(6.2 * panels, 1.4 + 0.42 * len(study.figures)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, panels, squeeze=False)[0]
    _bars(axes[0], study)
    if study.drafts:
        _lines(axes[1], study.drafts)
    figure.suptitle(title)
    figure.savefig(path, dpi=150)


def _bars(axes: Any, study: Measurements) -> None:
    """Draw one bar a contender, with its quartiles and its limit where that lies within the picture."""
    names = [f"{entry.engine}\n{entry.name}" for entry in study.figures]
    rates = [entry.tokens_per_second for entry in study.figures]
    places = range(len(names))
    colours = [_COLOURS[entry.engine] for entry in study.figures]
    axes.barh(places, [rate.median for rate in rates], xerr=_errors(rates), color=colours, capsize=3)
    most = max(rate.high for rate in rates)
    for place, entry in enumerate(study.figures):
        limit = entry.limit_tokens_per_second
        if limit is not None and limit.median <= 2 * most:
            axes.plot([limit.median] * 2, [place - 0.4, place + 0.4], color="#444444", linestyle=":")
        ratio = "" if entry.over_generate is None else f"{entry.over_generate.median:.2f}×"
        axes.annotate(
            ratio, (rates[place].high, place), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8
        )
    axes.set_yticks(places, names, fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel("tokens/s; × transformers' greedy; dotted: bandwidth limit")


def _lines(axes: Any, drafts: Sequence[Draft]) -> None:
    """Draw the rate over the draft length, with the share of accepted tokens at every point."""
    for name in dict.fromkeys(entry.name for entry in drafts):
        own = [entry for entry in drafts if entry.name == name]
        rates = [entry.tokens_per_second for entry in own]
        lengths = [str(entry.draft_tokens) for entry in own]
        axes.errorbar(lengths, [rate.median for rate in rates], yerr=_errors(rates), marker="o", capsize=3, label=name)
        for length, rate, entry in zip(lengths, rates, own, strict=True):
            share = "" if entry.acceptance_rate is None else f"{entry.acceptance_rate:.0%}"
            axes.annotate(share, (length, rate.median), xytext=(4, 4), textcoords="offset points", fontsize=8)
    axes.set_xlabel("draft length; labels: share of drafted tokens taken")
    axes.set_ylabel("tokens/s")
    axes.set_ylim(bottom=0)
    axes.margins(x=0.1)
    axes.legend()


def _errors(rates: Sequence[Spread]) -> list[list[float]]:
    return [[rate.median - rate.low for rate in rates], [rate.high - rate.median for rate in rates]]

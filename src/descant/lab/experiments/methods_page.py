"""Tables and figures of the experiment `methods`."""

from collections.abc import Mapping
from typing import Any

from descant.lab.experiments.base import Data
from descant.lab.experiments.plotting import COLOURS, MARKERS, panels
from descant.lab.experiments.tables import points, share, table, with_interval

_REAL = 0.05
_FRONTIER = {
    "greedy": "greedy",
    "beam": "beam",
    "contrastive search": "contrastive search",
    "tuned contrast": "contrast",
    "top-p": "top-p",
    "sampled mask alone (min-p)": "mask alone (min-p), sampled",
    "sampled tuned contrast": "contrast, sampled",
}
"""The methods that the frontier shows, and what it calls them."""


def closed_table(results: Mapping[str, Data]) -> str:
    """Return right answers, and what is wrong with the others."""
    first = next(iter(results.values()))
    errors = [name for name in first["methods"]["greedy"]["scores"] if name != "correct"]
    rows = []
    for name in first["methods"]:
        for label, data in results.items():
            entry = data["methods"][name]
            rows.append(
                [
                    name,
                    label,
                    entry["setting"],
                    with_interval(entry["scores"]["correct"]),
                    *_compared(entry["differences"]["correct"]),
                    *(share(entry["scores"][error]["value"]) for error in errors),
                ]
            )
    header = ["method", "pair", "setting", "right", "over greedy", "won, lost", "p"]
    return table([*header, *(error.replace("_", " ") for error in errors)], rows)


def open_table(results: Mapping[str, Data]) -> str:
    """Return validity, diversity and distance from the truth."""
    first = next(iter(results.values()))
    rows = []
    for name in [*first["methods"], "truth"]:
        for label, data in results.items():
            entry = data["truth"] if name == "truth" else data["methods"][name]
            if entry is None:
                continue
            valid, diverse = (entry["scores"].get(score) for score in ("valid", "diversity"))
            changes = [entry["differences"].get(score) for score in (entry["main"], "diversity")]
            rows.append(
                [
                    "*the truth itself*" if name == "truth" else name,
                    label,
                    entry.get("setting", ""),
                    with_interval(valid),
                    points(changes[0]),
                    with_interval(diverse),
                    points(changes[1]),
                    " / ".join("–" if change is None else _p(change.get("holm")) for change in changes),
                    share(entry["distance"]),
                ]
            )
    header = ["method", "pair", "setting", "valid", "over greedy", "diversity", "over greedy", "p", "distance"]
    note = (
        "*Valid*: share of words that the true source could have said. *Diversity*: product of 1 − rep-n, n = 2 to 4. "
        "*p*: of validity / of diversity. *Distance*: total variation between the pairs of words in the texts and in "
        "true continuations, which the reference continuations have too, for there are few of them."
    )
    return f"{note}\n\n{table(header, rows)}"


def verdicts(results: Mapping[str, Data]) -> str:
    """Return which methods differ from greedy decoding on every pair, and which do so on none."""
    first = next(iter(results.values()))
    lines = []
    for score in next(iter(first["methods"].values()))["differences"]:
        groups: dict[str, list[str]] = {"more": [], "less": [], "no clear difference on all": []}
        for name in first["methods"]:
            changes = [data["methods"][name]["differences"][score] for data in results.values()]
            if name == "greedy":
                continue
            signs = {_sign(change) for change in changes}
            kind = "more" if signs == {1} else "less" if signs == {-1} else "no clear difference on all"
            groups[kind].append(name)
        told = "; ".join(f"**{kind}**: {', '.join(names) or 'none'}" for kind, names in groups.items())
        lines.append(f"- {score}, against greedy on all {len(results)} pairs (p < {_REAL:g}): {told}.")
    return "\n".join(lines)


def draw_gains(results: Mapping[str, Data]) -> Any:
    """Draw what each method gains over greedy decoding, a panel for each world, a mark for each pair."""
    worlds = list(dict.fromkeys(data["world"] for data in results.values()))
    names = [name for name in next(iter(results.values()))["methods"] if name != "greedy"]
    figure, axes = panels(len(worlds), width=4.8, height=4.2)
    for column, world in enumerate(worlds):
        axis = axes[0][column]
        own = [(label, data) for label, data in results.items() if data["world"] == world]
        for place, (label, data) in enumerate(own):
            gains = [data["methods"][name]["differences"]["correct"] for name in names]
            values = [100 * gain["value"] for gain in gains]
            ends = [
                [100 * (gain["value"] - gain["low"]) for gain in gains],
                [100 * (gain["high"] - gain["value"]) for gain in gains],
            ]
            shifted = [row + 0.2 * (place - (len(own) - 1) / 2) for row in range(len(names))]
            axis.errorbar(
                values, shifted, xerr=ends, fmt=MARKERS[place], color=COLOURS[place], markersize=4, lw=1, label=label
            )
        axis.axvline(0, color="#444444", linewidth=0.8)
        axis.set_yticks(range(len(names)), names if column == 0 else [""] * len(names), fontsize=8)
        axis.invert_yaxis()
        axis.set_xlabel("right answers gained, percentage points")
        axis.set_title(world, fontsize=10)
        axis.legend(fontsize=7)
    return figure


def draw_frontier(results: Mapping[str, Data]) -> Any:
    """Draw validity over diversity for all settings that were tried, mean of the pairs."""
    figure, axes = panels(1, width=6.4, height=4.4)
    axis = axes[0][0]
    grids = [data["grid"] for data in results.values()]
    shown = [name for name in _FRONTIER if name in grids[0]]
    for place, name in enumerate(shown):
        spots = [
            [sum(entry["scores"][score] for entry in entries) / len(entries) for score in ("diversity", "valid")]
            for entries in zip(*(grid[name] for grid in grids), strict=True)
        ]
        label = _FRONTIER[name]
        axis.scatter(*zip(*spots, strict=True), s=26, color=COLOURS[place], marker=MARKERS[place], label=label)
    truths = [data["truth"]["scores"] for data in results.values() if data["truth"]]
    if truths:
        spot = [sum(scores[name]["value"] for scores in truths) / len(truths) for name in ("diversity", "valid")]
        ring = {"facecolors": "none", "edgecolors": "black", "linewidths": 1.2, "marker": "*", "s": 240}
        axis.scatter(*[[value] for value in spot], zorder=3, label="the truth itself", **ring)
    axis.set_xlabel("diversity of a text")
    axis.set_ylabel("valid words")
    axis.legend(fontsize=7, loc="lower left")
    return figure


def _compared(change: Mapping[str, Any]) -> list[str]:
    if "holm" not in change:
        return ["", "", ""]
    return [points(change), f"{change['won']}, {change['lost']}", _p(change["holm"])]


def _p(value: float | None) -> str:
    if value is None:
        return "–"
    return "< .001" if value < 0.001 else share(value)


def _sign(change: Mapping[str, Any]) -> int:
    if change["holm"] >= _REAL:
        return 0
    return 1 if change["value"] > 0 else -1

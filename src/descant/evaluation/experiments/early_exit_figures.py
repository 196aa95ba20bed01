"""Figures of the experiment `early-exit`."""

import textwrap
from collections.abc import Mapping
from typing import Any

from descant.evaluation.experiments.base import Data
from descant.evaluation.experiments.plotting import COLOURS, panels
from descant.evaluation.experiments.tables import mean


def draw_quality(results: Mapping[str, Data]) -> Any:
    """Draw right answers by the layer of the exit; without a judge, likeness to contrast with the amateur."""
    figure, axes = panels(1, width=6)
    axis = axes[0][0]
    first = next(iter(results.values()))["methods"]
    judged = "correct" in first["greedy"]["scores"]

    def value(name: str) -> float | None:
        methods = [data["methods"][name] for data in results.values()]
        return mean(method["scores"]["correct"]["value"] if judged else method["agreement"] for method in methods)

    exits = [name for name in first if name.startswith("exit after")]
    for norm, colour, marker in ((True, COLOURS[0], "o"), (False, COLOURS[1], "s")):
        own = [name for name in exits if name.endswith("no norm") != norm]
        label = "early exit, final norm" if norm else "early exit, no norm"
        places = [int(name.removeprefix("exit after ").split(",")[0]) for name in own]
        axis.plot(places, [value(name) for name in own], color=colour, marker=marker, label=label)
        for data in results.values():
            scores = [data["methods"][name] for name in own]
            dots = [one["scores"]["correct"]["value"] if judged else one["agreement"] for one in scores]
            axis.plot(places, dots, color=colour, marker=marker, linestyle="", alpha=0.35, markersize=3)
    for name, colour, style in (("separate amateur", COLOURS[2], "-"), ("greedy", COLOURS[6], ":")):
        axis.axhline(value(name), color=colour, linestyle=style, label=name)
    axis.set_xticks(places)
    axis.set_xlabel("layers that ran before the exit")
    axis.set_ylabel("right answers" if judged else "same text as contrast with the amateur")
    axis.legend(fontsize=8)
    return figure


def draw_layers(results: Mapping[str, Data]) -> Any:
    """Draw the probabilities of both tokens through the layers, and one example."""
    figure, axes = panels(2, width=4.8)
    kept = [data["layers"] for data in results.values() if data["layers"]["count"]]
    steps = range(1, len(kept[0]["greedy"]["norm"]) + 1)
    axis = axes[0][0]
    names = {"greedy": "greedy's token", "contrast": "contrast's token"}
    for (kind, label), colour, marker in zip(names.items(), (COLOURS[1], COLOURS[0]), ("s", "o"), strict=True):
        for norm, style in (("norm", "-"), ("no norm", ":")):
            values = [mean(one[kind][norm][step - 1] for one in kept) for step in steps]
            suffix = "" if norm == "norm" else ", no norm"
            axis.plot(steps, values, color=colour, marker=marker, markersize=4, linestyle=style, label=label + suffix)
        amateur = mean(one["amateur"].get(kind) for one in kept)
        if amateur is not None:
            axis.axhline(amateur, color=colour, linewidth=0.8, linestyle="--", label=f"{label}, the amateur's")
    axis.set_ylabel("mean probability")
    example = axes[0][1]
    for (token, values), colour, marker in zip(kept[0]["example"].items(), COLOURS, "os^Dv", strict=False):
        example.plot(steps, values, color=colour, marker=marker, markersize=4, label=f"“{token}”")
    example.set_title(_wrapped(kept[0]["prompt"]), fontsize=8)
    example.set_ylabel("probability")
    for one in axes[0]:
        one.set_xticks(list(steps))
        one.set_xlabel("layers that ran")
        one.legend(fontsize=7)
    return figure


def _wrapped(text: str) -> str:
    return textwrap.shorten(text, 60, placeholder=" …")

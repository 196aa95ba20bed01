"""Tables and figures of the experiment `early-exit`."""

import textwrap
from collections.abc import Mapping
from typing import Any

from descant.lab.experiments.base import Data
from descant.lab.experiments.plotting import COLOURS, legend_below, panels
from descant.lab.experiments.tables import mean, means, points, share, table, with_interval


def quality_table(results: Mapping[str, Data]) -> str:
    """Return right answers and rumours of every method, and how it compares."""
    rows = []
    for name in next(iter(results.values()))["methods"]:
        for label, data in results.items():
            method = data["methods"][name]
            scores = [with_interval(method["scores"].get(score)) for score in ("correct", "rumour")]
            over_greedy = points(method.get("gain")) if name != "greedy" else ""
            over_separate = points(method["against separate"]) if "exit" in name else ""
            p_value = f"{method['p, Holm']:.2g}" if "p, Holm" in method else ""
            same = share(method["agreement"])
            rows.append([name, label, method["setting"] or "", *scores, over_greedy, over_separate, p_value, same])
        if len(results) > 1:
            entries = [data["methods"][name] for data in results.values()]
            agreement = share(mean(entry["agreement"] for entry in entries))
            rows.append([name, "mean", "", *means(entries, name), "", "", agreement])
    header = "amateur, pair, setting, right, rumour, over greedy, over separate, p (Holm), same text"
    return table(header.split(", "), rows)


def cost_table(results: Mapping[str, Data]) -> str:
    """Return what a token costs beside greedy decoding."""
    rows = [
        [
            name,
            label,
            str(entry["passes"]),
            "–" if entry["bytes"] is None else f"{entry['bytes'] / data['cost']['greedy']['bytes']:.3f}",
            "{median:.2f} ({low:.2f}–{high:.2f})".format(**entry["time"]),
        ]
        for name in next(iter(results.values()))["cost"]
        for label, data in results.items()
        for entry in [data["cost"][name]]
    ]
    return table(["amateur", "pair", "passes", "bytes", "time"], rows)


def layers_section(results: Mapping[str, Data]) -> str:
    """Return what became of the two tokens through the layers, where greedy decoding and contrast part."""
    rows = []
    for label, data in results.items():
        layers = data["layers"]
        if layers["count"]:
            rows += [
                [kind, label, *(share(value) for value in layers[kind]["norm"]), share(layers["amateur"].get(kind))]
                for kind in ("greedy", "contrast")
            ]
    if not rows:
        return "Contrast and greedy decoding parted nowhere, so there is nothing to follow."
    first = next(data["layers"] for data in results.values() if data["layers"]["count"])
    kind = "questions that contrast mends" if first["mended"] else "texts that contrast changes"
    steps = len(first["greedy"]["norm"])
    counts = ", ".join(f"{label}: {data['layers']['count']}" for label, data in results.items())
    note = (
        f"The two tokens at which greedy decoding and contrast with the separate amateur part, over development {kind} "
        f"({counts}): mean probability after each layer, read by the final norm and the output head."
    )
    header = ["token of", "pair", *(f"layer {layer}" for layer in range(1, steps + 1)), "amateur"]
    picture = "![How tokens' probabilities evolve through the layers](early-exit-layers.svg)"
    return f"{note}\n\n{table(header, rows)}\n\n{picture}"


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
    legend_below(axis)
    return figure


def draw_layers(results: Mapping[str, Data]) -> Any:
    """Draw the probabilities of both tokens through the layers, and one example."""
    figure, axes = panels(2, width=4.8)
    kept = [data["layers"] for data in results.values() if data["layers"]["count"]]
    steps = range(1, len(kept[0]["greedy"]["norm"]) + 1)
    axis = axes[0][0]
    names = {"greedy": "greedy's token", "contrast": "contrast's token"}
    for (kind, label), colour, marker in zip(names.items(), (COLOURS[1], COLOURS[0]), ("s", "o"), strict=True):
        values = [mean(one[kind]["norm"][step - 1] for one in kept) for step in steps]
        axis.plot(steps, values, color=colour, marker=marker, markersize=4, label=label)
        amateur = mean(one["amateur"].get(kind) for one in kept)
        if amateur is not None:
            axis.axhline(amateur, color=colour, linewidth=0.8, linestyle="--", label=f"{label}, in the amateur")
    axis.set_ylabel("mean probability")
    example = axes[0][1]
    for (token, values), colour, marker in zip(kept[0]["example"].items(), COLOURS, "os^Dv", strict=False):
        example.plot(steps, values, color=colour, marker=marker, markersize=4, label=f"“{token.strip()}”")
    example.set_title(_wrapped(kept[0]["prompt"]), fontsize=8)
    example.set_ylabel("probability")
    for one in axes[0]:
        one.set_xticks(list(steps))
        one.set_xlabel("layers that ran")
        one.set_ylim(bottom=0)
        legend_below(one)
    return figure


def _wrapped(text: str) -> str:
    return textwrap.shorten(text, 60, placeholder=" …")

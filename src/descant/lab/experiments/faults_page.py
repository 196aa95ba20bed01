"""Tables and figures of the experiment `faults`."""

from collections.abc import Mapping, Sequence
from typing import Any

from descant.lab.experiments.base import Data
from descant.lab.experiments.plotting import COLOURS, MARKERS, legend_below, panels
from descant.lab.experiments.tables import mean, share, table


def bins_table(results: Mapping[str, Data], key: str, corner: str) -> str:
    """Return methods' right answers by bins of questions, with the gains over greedy of each pair."""
    first = next(iter(results.values()))[key]
    methods = list(next(iter(first.values()))["right"])
    rows = []
    for name, entry in first.items():
        cells = []
        for method in methods:
            own = [data[key][name] for data in results.values()]
            gains = [one["gain"][method] for one in own]
            shown = ", ".join("–" if gain is None else f"{100 * gain['value']:+.1f}" for gain in gains)
            right = share(mean(one["right"][method] for one in own))
            cells.append(right if method == "greedy" else f"{right} ({shown})")
        rows.append([name, str(entry["count"]), *cells])
    return table([corner, "questions", *methods], rows)


def ratio_table(results: Mapping[str, Data]) -> str:
    """Return what became of the texts that parted, by how improbable the promoted token is."""
    rows = []
    for name in next(iter(results.values()))["by ratio"]:
        own = [data["by ratio"][name] for data in results.values()]
        count, won, lost = (sum(one[key] for one in own) for key in ("count", "won", "lost"))
        rest = count - won - lost
        rows.append([name, *map(str, (count, won, lost, rest)), f"{won / lost:.1f}" if lost else "–"])
    return table(["ratio", "texts", "mended", "spoilt", "right or wrong as before", "mended for each spoilt"], rows)


def open_table(results: Mapping[str, Data]) -> str:
    """Return what becomes of answers as the mask opens."""
    rows = []
    for place, entry in enumerate(next(iter(results.values()))["open masks"]):
        own = [data["open masks"][place] for data in results.values()]
        cells = []
        for score in ("correct", "rumour", "no_answer"):
            values = [one["scores"].get(score, {}).get("value") for one in own]
            cells.append(share(mean(values)))
        rows.append([f"{entry['alpha']:g}", *cells, share(mean(one["same"] for one in own))])
    return table(["α", "right", "rumour", "no answer", "same as greedy"], rows)


def example_table(examples: Sequence[Data]) -> str:
    """Return examples with the probabilities behind them."""
    rows = []
    for one in examples:
        tokens = " ".join(
            f"{kind} “{token['text']}”: {share(token['expert'])}, {share(token['amateur'])}."
            for kind, token in one["tokens"].items()
        )
        texts = [one["texts"].get(name, "–") for name in ("greedy", "amateur", "contrast")]
        rows.append([one["kind"], one["prompt"], one["truth"] or "–", *texts, tokens])
    shown = [[" ".join(cell.split()) for cell in row] for row in rows]
    return table(["what", "question", "truth", "expert", "amateur", "contrast", "first token that differs"], shown)


def draw_gains(results: Mapping[str, Data], key: str, label: str) -> Any:
    """Draw the gain over greedy by bins of questions, of every method and pair, with intervals."""
    figure, axes = panels(1, width=6.4)
    axis = axes[0][0]
    bins = next(iter(results.values()))[key]
    methods = [name for name in next(iter(bins.values()))["gain"] if name != "greedy"]
    for order, method in enumerate(methods):
        axis.plot([], [], color=COLOURS[order], marker=MARKERS[order], markersize=4, label=method)
        shift = (order - (len(methods) - 1) / 2) * 0.14
        for pair, data in enumerate(results.values()):
            for place, entry in enumerate(data[key].values()):
                gain = entry["gain"][method]
                if gain is None:
                    continue
                at = place + shift + (pair - (len(results) - 1) / 2) * 0.035
                axis.errorbar(
                    at,
                    100 * gain["value"],
                    yerr=[[100 * (gain["value"] - gain["low"])], [100 * (gain["high"] - gain["value"])]],
                    color=COLOURS[order],
                    marker=MARKERS[order],
                    markersize=4,
                    linewidth=0.8,
                )
    axis.axhline(0, color="#444444", linewidth=0.8)
    axis.set_xticks(range(len(bins)), [f"{name}\n({entry['count']})" for name, entry in bins.items()], fontsize=8)
    axis.set_xlabel(label)
    axis.set_ylabel("points over greedy")
    legend_below(axis, 3, lines=2)
    return figure

"""How weak the amateur should be: its size, how long it was trained, how much of the text it sees, and τ.

Li et al. 2022 (arXiv 2210.15097) let the amateur be smaller and short-sighted, and find the smallest to be the best.
Here the truth is known, so that what an amateur takes away is seen to be right or wrong.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedModel

from descant.decoder import Decoder
from descant.lab.experiments.base import Data, Pair
from descant.lab.experiments.judged import MAIN
from descant.lab.experiments.plotting import COLOURS, MARKERS, panels
from descant.lab.experiments.scores import correct, judge, main_score, merit, summarise
from descant.lab.experiments.tables import mean, points, share, table, with_interval
from descant.lab.studies.tasks import Task
from descant.scoring import Contrastive, Likelihood, Scoring
from descant.sources import Window
from descant.strategies import Greedy, Sample

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_OWN = "the pair's amateur"
_TOLD = {MAIN: "right"}


@dataclass(frozen=True)
class Amateurs:
    """The experiment `amateurs`.

    Parameters
    ----------
    alpha
        The mask of all contrasts.
    taus
        Temperatures of the amateur that are tried: above 1 makes it less sure, and the contrast weaker.
    windows
        How many of the last tokens an amateur sees.
    dev, test
        How many questions choose τ, and how many are reported.
    dev_texts, test_texts
        The same where texts are open-ended and long. There all methods sample.
    seed
        Of sampling.
    """

    alpha: float = 0.1
    taus: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0)
    windows: tuple[int, ...] = (1, 2, 4, 8)
    dev: int = 100
    test: int = 300
    dev_texts: int = 50
    test_texts: int = 150
    seed: int = 0

    name = "amateurs"
    title = "How weak the amateur should be"
    question = (
        "What do an amateur's size, its training, the tokens that it sees and its temperature do to contrastive "
        "decoding, and which amateurs hurt?"
    )

    def run(self, pair: Pair) -> Data:
        closed = main_score(judge(pair, pair.tasks("dev", 1), [""])) == MAIN
        dev = pair.tasks("dev", self.dev if closed else self.dev_texts)
        test = pair.tasks("test", self.test if closed else self.test_texts)
        base = self._texts(pair, test, self._base(closed), closed)
        amateurs = {name: self._measure(one, alone, dev, test, base, closed) for name, one, alone in self._pairs(pair)}
        for setting in ("default", "tuned"):
            correct({name: entry[setting] for name, entry in amateurs.items()})
        return {
            "world": pair.asked.name,
            "closed": closed,
            "tasks": {"dev": len(dev), "test": len(test)},
            "base": summarise(pair, test, base, base),
            "dev": merit(pair, dev, self._texts(pair, dev, self._base(closed), closed)),
            "amateurs": amateurs,
        }

    def _base(self, closed: bool) -> Scoring:
        """Return what the contrast is compared with: the expert alone, below the same mask where tokens are drawn."""
        return Likelihood() if closed else Contrastive(self.alpha, beta=0.0)

    def _pairs(self, pair: Pair) -> Iterator[tuple[str, Pair, Pair | None]]:
        """Yield every amateur's name, the pair with it, and the amateur alone where it is a model."""
        own = pair.decoder.amateur
        yield _OWN, pair, pair.alone()
        for name, model in _siblings(pair.decoder):
            other = pair.with_amateur(model, name)
            yield name, other, other.alone()
        models: tuple[tuple[str, Any], ...] = (("amateur", own), ("expert", pair.decoder.expert))
        for label, model in models:
            if isinstance(model, PreTrainedModel):
                for tokens in self.windows:
                    name = f"{label}, last {tokens}"
                    yield name, pair.with_amateur(Window(model, tokens), name), None

    def _measure(
        self,
        pair: Pair,
        alone: Pair | None,
        dev: Sequence[Task],
        test: Sequence[Task],
        base: Sequence[str],
        closed: bool,
    ) -> Data:
        tried = {tau: Contrastive(self.alpha, amateur_temperature=tau) for tau in dict.fromkeys((1.0, *self.taus))}
        merits = {tau: merit(pair, dev, self._texts(pair, dev, one, closed)) for tau, one in tried.items()}
        known = {tau: value for tau, value in merits.items() if value is not None}
        tau = max(known, key=known.__getitem__) if known else 1.0
        found: Data = {"tau": tau, "dev": [merits[one] for one in self.taus], "alone": None}
        for name, one in (("default", tried[1.0]), ("tuned", tried[tau])):
            found[name] = summarise(pair, test, self._texts(pair, test, one, closed), base)
        if alone is not None:
            scores = judge(pair, test, self._texts(alone, test, Likelihood(), closed))
            found["alone"] = sum(scores[main_score(scores)]) / len(test)
        return found

    def _texts(self, pair: Pair, tasks: Sequence[Task], scoring: Scoring, closed: bool) -> list[str]:
        return pair.answer(tasks, scoring, Greedy() if closed else Sample(), self.seed)

    def page(self, results: Mapping[str, Data]) -> str:
        parts = []
        for world in dict.fromkeys(data["world"] for data in results.values()):
            own = {label: data for label, data in results.items() if data["world"] == world}
            first = next(iter(own.values()))
            how, what = ("greedy", "the expert's greedy choice") if first["closed"] else ("sampled", "the mask alone")
            parts += [
                f"## {world.capitalize()}",
                f"α={self.alpha:g}, {how}; {first['tasks']['test']} test tasks a pair; with τ = 1, and with the τ "
                f"chosen on {first['tasks']['dev']} development tasks; compared with {what}; *p* corrected by Holm for "
                "all amateurs of a pair. *Alone*: the amateur's own texts.",
                _chosen_table(own),
                "On the development tasks, by τ, mean of the pairs: "
                + ("right answers." if first["closed"] else "distance from the truth (less is better)."),
                self._tau_table(own),
            ]
        return "\n\n".join([*parts, "![Gains over amateurs](amateurs-gains.svg)"])

    def _tau_table(self, results: Mapping[str, Data]) -> str:
        first = next(iter(results.values()))
        sign = 1 if first["closed"] else -1
        rows = []
        for name in _names(results):
            grids = [data["amateurs"][name]["dev"] for data in results.values() if name in data["amateurs"]]
            if None not in grids[0]:
                rows.append([name, *(share(sign * sum(column) / len(grids)) for column in zip(*grids, strict=True))])
        base = [data["dev"] for data in results.values()]
        if None not in base:
            rows.append(["*without contrast*", share(sign * sum(base) / len(base)), *[""] * (len(self.taus) - 1)])
        return table(["amateur", *(f"τ = {tau:g}" for tau in self.taus)], rows)

    def figures(self, results: Mapping[str, Data]) -> Mapping[str, "Figure"]:
        return {"gains": _draw(results)}


def _siblings(decoder: Decoder) -> Iterator[tuple[str, PreTrainedModel]]:
    """Yield the models beside the expert's folder: amateurs of other widths, earlier states of the expert."""
    expert = decoder.expert
    folder = Path(expert.name_or_path or "")
    found = [path for path in folder.parent.glob("*-*") if re.fullmatch(r"(amateur|expert)-\d+", path.name)]
    for path in sorted(found, key=lambda path: (path.name.split("-")[0], int(path.name.split("-")[1]))):
        other = Decoder.from_pretrained(path, dtype=str(expert.dtype).removeprefix("torch."), device=expert.device.type)
        yield path.name, other.expert


def _names(results: Mapping[str, Data]) -> list[str]:
    return list(dict.fromkeys(name for data in results.values() for name in data["amateurs"]))


def _chosen_table(results: Mapping[str, Data]) -> str:
    first = next(iter(results.values()))
    compared = list(first["base"]["differences"])
    rows = []
    for name in _names(results):
        for label, data in results.items():
            if name in data["amateurs"]:
                entry = data["amateurs"][name]
                cells = [name, label, share(entry["alone"])]
                cells += _cells(entry["default"], compared, closed=data["closed"])
                rows.append([*cells, f"{entry['tau']:g}", *_cells(entry["tuned"], compared, closed=data["closed"])])
    rows += [
        ["*without contrast*", label, "", *_cells(data["base"], compared, closed=data["closed"], alone=True)]
        for label, data in results.items()
    ]
    columns = [column for score in compared for column in (_TOLD.get(score, score), "difference", "p")]
    columns += [] if first["closed"] else ["distance"]
    header = ["amateur", "pair", "alone", *(f"{column}, τ = 1" for column in columns), "τ", *columns]
    return table(header, [row + [""] * (len(header) - len(row)) for row in rows])


def _cells(entry: Mapping[str, Any], compared: Sequence[str], *, closed: bool, alone: bool = False) -> list[str]:
    cells = []
    for score in compared:
        change = entry["differences"][score]
        cells += [
            with_interval(entry["scores"][score]),
            *(["", ""] if alone else [points(change), share(change["holm"])]),
        ]
    return cells + ([] if closed else [share(entry["distance"])])


def _draw(results: Mapping[str, Data]) -> Any:
    """Draw what the main score gains at τ = 1, over what amateurs know and see; mean of a world's pairs."""
    figure, axes = panels(2, width=5.0, height=3.6)
    knowing, seeing = axes[0]
    worlds = list(dict.fromkeys(data["world"] for data in results.values()))
    for world, colour, marker in zip(worlds, COLOURS, MARKERS, strict=False):
        own = {label: data for label, data in results.items() if data["world"] == world}
        spots = [_mean_spot(own, name) for name in _names(own)]
        models = [(alone, gain) for alone, gain in spots if alone is not None]
        knowing.plot(*zip(*models, strict=True), color=colour, marker=marker, linestyle="", label=world)
        for whose, style in (("amateur", "-"), ("expert", "--")):
            seen = [name for name in _names(own) if name.startswith(f"{whose}, last ")]
            if seen:
                line = [_mean_spot(own, name)[1] for name in seen]
                tokens = [int(name.rpartition(" ")[2]) for name in seen]
                seeing.plot(tokens, line, color=colour, marker=marker, linestyle=style, label=f"{world}, {whose}")
    seeing.set_xscale("log", base=2)
    seeing.xaxis.set_major_formatter("{x:g}")
    knowing.set_xlabel("the amateur's own score")
    seeing.set_xlabel("tokens that the amateur sees")
    knowing.set_ylabel("gain at τ = 1, percentage points")
    for axis in axes[0]:
        axis.axhline(0, color="#444444", linewidth=0.8)
    knowing.legend(fontsize=7)
    seeing.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _mean_spot(results: Mapping[str, Data], name: str) -> tuple[float | None, float]:
    """Return an amateur's own score and what it gains, in percentage points, mean of the pairs that have it."""
    entries = [data["amateurs"][name] for data in results.values() if name in data["amateurs"]]
    gains = [entry["default"]["differences"][entry["default"]["main"]]["value"] for entry in entries]
    return mean(entry["alone"] for entry in entries), 100 * sum(gains) / len(gains)

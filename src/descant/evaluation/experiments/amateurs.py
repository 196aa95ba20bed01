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

from descant.amateurs import Window
from descant.decoder import Decoder
from descant.evaluation.experiments.base import Data, Pair
from descant.evaluation.experiments.plotting import COLOURS, MARKERS, panels
from descant.evaluation.experiments.scores import CLOSED, correct, judge, main_score, merit, summarise
from descant.evaluation.experiments.tables import points, share, table, with_interval
from descant.evaluation.tasks import Task
from descant.scoring import Contrastive, Likelihood, Scoring
from descant.strategies import Greedy, Sample

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_OWN = "the pair's amateur"
_KINDS = ("size", "checkpoint", "window of the amateur", "window of the expert")


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
    test: int = 400
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
        closed = main_score(judge(pair, pair.tasks("dev", 1), [""])) == CLOSED
        dev = pair.tasks("dev", self.dev if closed else self.dev_texts)
        test = pair.tasks("test", self.test if closed else self.test_texts)
        base = self._texts(pair, test, self._base(closed), closed)
        amateurs = {name: self._measure(one, alone, dev, test, base, closed) for name, one, alone in self._pairs(pair)}
        correct(amateurs)
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
        tried = {tau: Contrastive(self.alpha, amateur_temperature=tau) for tau in self.taus}
        merits = {tau: merit(pair, dev, self._texts(pair, dev, one, closed)) for tau, one in tried.items()}
        known = {tau: value for tau, value in merits.items() if value is not None}
        tau = max(known, key=known.__getitem__) if known else 1.0
        texts = self._texts(pair, test, Contrastive(self.alpha, amateur_temperature=tau), closed)
        found = {"tau": tau, "dev": list(merits.values()), **summarise(pair, test, texts, base), "alone": None}
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
                f"α={self.alpha:g}, {how}; τ chosen on {first['tasks']['dev']} development tasks, reported on "
                f"{first['tasks']['test']} test tasks a pair; compared with {what}; *p* corrected by Holm for all "
                "amateurs of a pair. *Alone*: the amateur's own texts.",
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
    rows = []
    for name in _names(results):
        for label, data in results.items():
            entry = data["amateurs"].get(name)
            if entry is None:
                continue
            changes = entry["differences"]
            cells = [name, label, share(entry["alone"]), f"{entry['tau']:g}"]
            for score in dict.fromkeys((entry["main"], *changes)):
                cells += [with_interval(entry["scores"][score]), points(changes[score]), share(changes[score]["holm"])]
            cells += [] if data["closed"] else [share(entry["distance"])]
            rows.append(cells)
    first = next(iter(results.values()))
    for label, data in results.items():
        base = data["base"]
        cells = ["*without contrast*", label, "", ""]
        for score in base["differences"]:
            cells += [with_interval(base["scores"][score]), "", ""]
        rows.append(cells + ([] if data["closed"] else [share(base["distance"])]))
    header = ["amateur", "pair", "alone", "τ"]
    for score in first["base"]["differences"]:
        header += [score, "difference", "p"]
    return table(header + ([] if first["closed"] else ["distance"]), rows)


def _place(name: str) -> tuple[str, float] | None:
    """Return the kind of an amateur, and where it stands among its like."""
    number = re.search(r"\d+$", name)
    if number is None:
        return None
    kinds = dict(zip(("amateur-", "expert-", "amateur,", "expert,"), _KINDS, strict=True))
    return next(kind for beginning, kind in kinds.items() if name.startswith(beginning)), float(number[0])


def _draw(results: Mapping[str, Data]) -> Any:
    """Draw the main score's gain for each kind of amateur; one colour a world, mean of its pairs."""
    figure, axes = panels(2, 2, width=4.4, height=3.0)
    worlds = list(dict.fromkeys(data["world"] for data in results.values()))
    for axis, kind in zip(axes.flat, _KINDS, strict=True):
        for world, colour, marker in zip(worlds, COLOURS, MARKERS, strict=False):
            own = {label: data for label, data in results.items() if data["world"] == world}
            spots: dict[float, list[float]] = {}
            for name in _names(own):
                place = _place(name)
                if place is not None and place[0] == kind:
                    entries = [data["amateurs"][name] for data in own.values() if name in data["amateurs"]]
                    spots[place[1]] = [100 * entry["differences"][entry["main"]]["value"] for entry in entries]
            line = sorted(spots)
            axis.plot(line, [sum(spots[x]) / len(spots[x]) for x in line], color=colour, marker=marker, label=world)
        axis.axhline(0, color="#444444", linewidth=0.8)
        axis.set_xscale("log", base=2)
        axis.set_title(kind, fontsize=9)
    for axis, text in zip(axes.flat, ("width", "steps of training", "tokens it sees", "tokens it sees"), strict=True):
        axis.set_xlabel(text, fontsize=8)
    for line in axes:
        line[0].set_ylabel("gain, percentage points", fontsize=8)
    axes[0][0].legend(fontsize=7)
    return figure

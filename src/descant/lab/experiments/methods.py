"""Contrastive decoding beside every other method, on worlds whose truth is known.

The mask alone (β = 0, which is min-p) stands beside the contrast, so that neither takes the other's credit
(O'Brien & Lewis 2023, arXiv 2309.09117, masks so). Every method's settings are chosen on development tasks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from descant.lab.experiments.base import Data, Pair
from descant.lab.experiments.judged import MAIN
from descant.lab.experiments.methods_page import closed_table, draw_frontier, draw_gains, open_table, verdicts
from descant.lab.experiments.scores import correct, distance, judge, main_score, merit, summarise
from descant.lab.studies.tasks import Task
from descant.processors import TopK, TopP, Typical
from descant.processors.base import Processor
from descant.scoring import Contrastive, DoLa, Likelihood, Scoring
from descant.strategies import Beam, ContrastiveSearch, Greedy, Sample, Strategy

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GREEDY = "greedy"
_GREEDY = Greedy()
_SAMPLE = Sample()


@dataclass(frozen=True)
class Entry:
    """One setting of a method.

    Attributes
    ----------
    setting
        As tables have it.
    scoring, processors, strategy
        Its parts.
    """

    setting: str
    scoring: Scoring
    processors: tuple[Processor, ...] = ()
    strategy: Strategy = _GREEDY


@dataclass(frozen=True)
class Methods:
    """The experiment `methods`.

    Parameters
    ----------
    alphas, betas
        Settings of contrast that are tried; the difference form, which is β without end, as well.
    dev, test
        How many questions choose, and how many are reported.
    dev_texts, test_texts
        The same where texts are open-ended and long.
    seed
        Of sampling.
    """

    alphas: tuple[float, ...] = (0.1, 0.3, 0.5)
    betas: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0)
    dev: int = 100
    test: int = 500
    dev_texts: int = 50
    test_texts: int = 200
    seed: int = 0

    name = "methods"
    title = "Which method, in which world"
    question = (
        "How good are contrast, its mask alone, beams, truncated sampling, DoLa and contrastive search where the truth "
        "is known?"
    )

    def families(self) -> Mapping[str, Sequence[Entry]]:
        """Return the settings of each method that are tried; the first is its default."""
        likelihood = Likelihood()
        contrast = {"α=0.1, τ=1": Contrastive()} | {
            f"α={alpha:g}, {'τ=1' if beta is None else f'β={beta:g}'}": Contrastive(alpha, beta=beta)
            for alpha in self.alphas
            for beta in (None, *self.betas)
        }
        masks = {f"α={alpha:g}": Contrastive(alpha, beta=0.0) for alpha in (0.05, *self.alphas)}

        def sampled(setting: str, *processors: Processor) -> Entry:
            return Entry(setting, likelihood, processors, _SAMPLE)

        return {
            GREEDY: [Entry("", likelihood)],
            "mask alone (β = 0)": [Entry("α=0.1", Contrastive(beta=0.0))],
            "default contrast": [Entry("α=0.1, τ=1", Contrastive())],
            "tuned contrast": [Entry(setting, scoring) for setting, scoring in contrast.items()],
            "beam": [Entry(f"{width} beams", likelihood, (), Beam(width)) for width in (4, 2, 8)],
            "DoLa": [Entry(layers, DoLa(layers)) for layers in ("high", "low")],
            "contrastive search": [
                Entry(f"k={k}, α={penalty:g}", likelihood, (), ContrastiveSearch(k, penalty))
                for k in (4, 8)
                for penalty in (0.6, 0.3, 0.1)
            ],
            "sampling": [sampled("")],
            "top-k": [sampled(f"k={k}", TopK(k)) for k in (50, 10, 5, 2)],
            "top-p": [sampled(f"p={p:g}", TopP(p)) for p in (0.95, 0.9, 0.7, 0.5, 0.3)],
            "typical": [sampled(f"mass {mass:g}", Typical(mass)) for mass in (0.95, 0.9, 0.7, 0.5, 0.2)],
            "sampled mask alone (min-p)": [Entry(setting, scoring, (), _SAMPLE) for setting, scoring in masks.items()],
            "sampled default contrast": [Entry("α=0.1, τ=1", Contrastive(), (), _SAMPLE)],
            "sampled tuned contrast": [Entry(setting, scoring, (), _SAMPLE) for setting, scoring in contrast.items()],
        }

    def run(self, pair: Pair) -> Data:
        closed = main_score(judge(pair, pair.tasks("dev", 1), [""])) == MAIN
        dev = pair.tasks("dev", self.dev if closed else self.dev_texts)
        test = pair.tasks("test", self.test if closed else self.test_texts)
        grid = {name: [self._try(pair, dev, one) for one in family] for name, family in self.families().items()}
        chosen = {name: _best(family, grid[name]) for name, family in self.families().items()}
        base = self._texts(pair, test, chosen[GREEDY])
        methods = {}
        for name, method in chosen.items():
            methods[name] = {"setting": method.setting, **summarise(pair, test, self._texts(pair, test, method), base)}
        correct({name: entry for name, entry in methods.items() if name != GREEDY})
        found: Data = {"world": pair.asked.name, "tasks": {"dev": len(dev), "test": len(test)}, "methods": methods}
        if not closed:
            references = [task.reference or "" for task in test]
            found["truth"] = None if not all(references) else summarise(pair, test, references, base)
            found["grid"] = grid
        return found

    def _texts(self, pair: Pair, tasks: Sequence[Task], method: Entry) -> list[str]:
        return pair.answer(tasks, method.scoring, method.strategy, self.seed, method.processors)

    def _try(self, pair: Pair, dev: Sequence[Task], method: Entry) -> Data:
        texts = self._texts(pair, dev, method)
        means = {name: sum(values) / len(values) for name, values in judge(pair, dev, texts).items()}
        return {
            "setting": method.setting,
            "merit": merit(pair, dev, texts),
            "distance": distance(pair, dev, texts),
            "scores": means,
        }

    def page(self, results: Mapping[str, Data]) -> str:
        parts = []
        for world in dict.fromkeys(data["world"] for data in results.values()):
            own = {label: data for label, data in results.items() if data["world"] == world}
            first = next(iter(own.values()))
            counts = first["tasks"]
            chosen = "the most right answers" if "grid" not in first else "the least distance from the truth"
            parts += [
                f"## {world.capitalize()}",
                f"{counts['test']} test tasks a pair. Settings: {chosen} on {counts['dev']} development tasks; "
                "*default* is not tuned. Intervals are 95% and resample groups of tasks; *p* is a paired test against "
                f"greedy, corrected by Holm for the {len(first['methods']) - 1} methods of a pair.",
                verdicts(own),
                open_table(own) if "grid" in first else closed_table(own),
            ]
            parts += ["![Validity and diversity](methods-frontier.svg)"] if _is_valid(first) else []
        if any("grid" not in data for data in results.values()):
            parts.append("![Right answers gained over greedy decoding](methods-gains.svg)")
        return "\n\n".join(parts)

    def figures(self, results: Mapping[str, Data]) -> Mapping[str, "Figure"]:
        closed = {label: data for label, data in results.items() if "grid" not in data}
        opened = {label: data for label, data in results.items() if _is_valid(data)}
        drawn: dict[str, Any] = {"gains": draw_gains(closed)} if closed else {}
        return drawn | ({"frontier": draw_frontier(opened)} if opened else {})


def _is_valid(data: Data) -> bool:
    """Whether texts are open-ended, and judged."""
    return "valid" in data["methods"][GREEDY]["scores"]


def _best(family: Sequence[Entry], tried: Sequence[Data]) -> Entry:
    """Return the setting that did best on development tasks, the first of equals; the default where nobody knows."""
    merits = [entry["merit"] for entry in tried]
    if None in merits:
        return family[0]
    return family[max(range(len(family)), key=lambda place: merits[place])]

"""How much do α, β and τ matter: for right answers, for the amateur's passes that are saved, for drafts that stand?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedModel

from descant.lab.bench.clock import passes
from descant.lab.experiments.base import Data, Pair
from descant.lab.experiments.judged import letters, main_scores, summarise
from descant.lab.experiments.plotting import COLOURS, MARKERS, heatmap, legend_below, panels
from descant.lab.experiments.tables import mean, methods_table, share, table
from descant.lab.studies.identity import digest
from descant.lab.studies.tasks import Task
from descant.scoring import Contrastive, Likelihood
from descant.strategies import Greedy, Sample, Speculative

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BASES: Mapping[str, Greedy | Sample] = {"greedy": Greedy(), "sampled": Sample()}


@dataclass(frozen=True)
class Sensitivity:
    """The experiment `sensitivity`.

    Parameters
    ----------
    alphas, betas, taus
        The grids: α with τ (difference form) and α with β (β form).
    dev, test
        Questions that each setting is asked, and questions that report the chosen ones.
    counted
        Questions whose steps are counted for selective contrast, one row at a time.
    drafted
        Questions on which drafts are counted.
    draft_tokens
        Tokens of a draft; none is cut short by low confidence.
    seed
        Of sampling.
    """

    alphas: tuple[float, ...] = (0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8)
    betas: tuple[float, ...] = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)
    taus: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0, 2.0, 4.0)
    dev: int = 200
    test: int = 1000
    counted: int = 40
    drafted: int = 50
    draft_tokens: int = 4
    seed: int = 0

    name = "sensitivity"
    title = "How much α, β and τ matter"
    question = (
        "How do right answers, the amateur's passes and the acceptance of drafts depend on α, β and τ, in both forms?"
    )

    def run(self, pair: Pair) -> Data:
        dev, test = pair.tasks("dev", self.dev), pair.tasks("test", self.test)
        greedy = pair.answer(dev, Likelihood())
        grids = {"difference": self._grid(self.taus, None), "beta": self._grid(None, self.betas)}
        judged = main_scores(pair, dev, greedy) is not None
        values = {
            form: [[_value(pair, dev, one, greedy) for one in row] for row in grid] for form, grid in grids.items()
        }
        base = pair.answer(test, Likelihood())
        methods = {"greedy": {"setting": "", **summarise(pair, test, base, base)}}
        for name, scoring in self._chosen(grids, values, judged=judged).items():
            methods[name] = {
                "setting": letters(scoring),
                **summarise(pair, test, pair.answer(test, scoring), base),
            }
        return {
            "questions": {"dev": len(dev), "test": len(test)},
            "judged": judged,
            "greedy": _value(pair, dev, Likelihood(), greedy),
            "grids": values,
            "methods": methods,
            "selective": {str(alpha): self._selective(pair, alpha) for alpha in self.alphas},
            "drafts": {name: self._drafts(pair, name) for name in _BASES},
        }

    def _grid(self, taus: Sequence[float] | None, betas: Sequence[float] | None) -> list[list[Contrastive]]:
        """Return the settings, one row an α."""
        if betas is None:
            return [[Contrastive(alpha, amateur_temperature=tau) for tau in taus or ()] for alpha in self.alphas]
        return [[Contrastive(alpha, beta=beta) for beta in betas] for alpha in self.alphas]

    def _chosen(
        self, grids: Mapping[str, list[list[Contrastive]]], values: Mapping[str, list[list[float]]], *, judged: bool
    ) -> dict[str, Contrastive]:
        """Return the settings that are asked the test questions; without a judge none is best."""
        chosen = {"difference form, default": Contrastive(), "β form, default": Contrastive(beta=0.5)}
        names = {"difference": "difference form, best on dev", "beta": "β form, best on dev"}
        for form, name in names.items():
            if judged:
                flat = [(value, one) for row, line in zip(grids[form], values[form], strict=True)
                        for one, value in zip(row, line, strict=True)]  # fmt: skip
                chosen[name] = max(flat, key=lambda entry: entry[0])[1]
        return chosen

    def _selective(self, pair: Pair, alpha: float) -> Data:
        """Return the share of steps whose head is one token, and the amateur's passes with and without skipping."""
        prompts = [task.prompt for task in pair.tasks("dev", self.counted)]
        settings = {"measure": "selective", "alpha": alpha, "prompts": digest(prompts)}
        return dict(pair.cells.measure(settings, partial(count_steps, pair, prompts, alpha)))

    def _drafts(self, pair: Pair, base: str) -> Data:
        """Return how many drafted tokens stand, for each setting."""
        prompts = [task.prompt for task in pair.tasks("dev", self.drafted)]
        strategy = Speculative(_BASES[base], tokens=self.draft_tokens, confidence=0)
        found = {}
        for alpha in self.alphas:
            for beta in (None, *self.betas):
                scoring = Contrastive(alpha, beta=beta)
                settings = {"measure": "drafts", "method": f"{scoring!r}, {strategy!r}", "prompts": digest(prompts)}
                counts = pair.cells.measure(
                    {**settings, "seed": self.seed}, partial(count_drafts, pair, prompts, scoring, strategy, self.seed)
                )
                found[f"{alpha:g}, {'difference' if beta is None else f'{beta:g}'}"] = counts
        return found

    def page(self, results: Mapping[str, Data]) -> str:
        first = next(iter(results.values()))
        counts = first["questions"]
        what = "Right answers" if first["judged"] else "Texts that are greedy decoding's"
        note = (
            "settings chosen on them" if first["judged"] else "nothing is known of these prompts, so nothing is chosen"
        )
        lines = [
            "## Right answers",
            f"{what} on {counts['dev']} development questions, mean of the pairs ({note}); greedy decoding: "
            f"{share(mean(data['greedy'] for data in results.values()))}.",
            self._grid_table("Difference form: α", "τ", self.taus, "difference", results),
            self._grid_table("β form: α", "β", self.betas, "beta", results),
            "![Right answers over α, β and τ](sensitivity-grids.svg)",
            f"On {counts['test']} test questions; intervals resample groups of questions.",
            methods_table(results),
            "## The amateur's passes",
            f"{self.counted} development questions, one at a time, difference form. *One-token head*: share of steps "
            "where the mask leaves one token, which no contrast can change. *Passes*: of the amateur, for each pass of "
            "the expert, if steps with a one-token head are left out and caught up with later; and the share of them "
            "that this saves.",
            self._selective_table(results),
            "![Share of steps with a one-token head](sensitivity-selective.svg)",
            "## Drafts of the amateur",
            f"Share of drafted tokens that stand, in speculative contrastive decoding of {self.drafted} development "
            f"questions; {self.draft_tokens} tokens a draft, none cut short; mean of the pairs. In brackets: tokens "
            "for each pass of the expert.",
            *(self._draft_table(base, results) for base in _BASES),
            "![Acceptance by α and β](sensitivity-acceptance.svg)",
        ]
        return "\n\n".join(lines)

    def _grid_table(
        self, corner: str, letter: str, columns: Sequence[float], form: str, results: Mapping[str, Data]
    ) -> str:
        grid = _mean_grid(results, form)
        rows = [[f"{alpha:g}", *map(share, line)] for alpha, line in zip(self.alphas, grid, strict=True)]
        return table([corner, *(f"{letter} = {value:g}" for value in columns)], rows)

    def _selective_table(self, results: Mapping[str, Data]) -> str:
        rows = [
            [
                f"{alpha:g}",
                label,
                share(entry["one token"]),
                "–" if entry["passes"] is None else f"{entry['passes'] / entry['expert']:.3f}",
                "–" if entry["passes"] is None else share(1 - entry["passes"] / entry["all"]),
            ]
            for alpha in self.alphas
            for label, data in results.items()
            for entry in [data["selective"][str(alpha)]]
        ]
        return table(["α", "pair", "one-token head", "passes", "saved"], rows)

    def _draft_table(self, base: str, results: Mapping[str, Data]) -> str:
        forms = ["difference", *(f"{beta:g}" for beta in self.betas)]
        rows = []
        for alpha in self.alphas:
            entries = [[data["drafts"][base][f"{alpha:g}, {form}"] for data in results.values()] for form in forms]
            rows.append([f"{alpha:g}", *(f"{share(_accepted(own))} ({_tokens_a_pass(own):.2f})" for own in entries)])
        return table([f"{base}: α", "difference", *(f"β = {form}" for form in forms[1:])], rows)

    def figures(self, results: Mapping[str, Data]) -> Mapping[str, "Figure"]:
        return {
            "grids": self._draw_grids(results),
            "selective": self._draw_selective(results),
            "acceptance": self._draw_acceptance(results),
        }

    def _draw_grids(self, results: Mapping[str, Data]) -> Any:
        figure, axes = panels(2)
        rows = [f"{alpha:g}" for alpha in self.alphas]
        grids = {form: _mean_grid(results, form) for form in ("difference", "beta")}
        flat = [value for grid in grids.values() for line in grid for value in line]
        for axis, (form, grid), columns in zip(axes[0], grids.items(), (self.taus, self.betas), strict=True):
            heatmap(axis, grid, rows, [f"{value:g}" for value in columns], low=min(flat), high=max(flat))
            axis.set_xlabel("τ, difference form" if form == "difference" else "β, β form")
            axis.set_ylabel("α")
        judged = next(iter(results.values()))["judged"]
        figure.suptitle("right answers, development questions" if judged else "texts equal to greedy's", fontsize=10)
        return figure

    def _draw_selective(self, results: Mapping[str, Data]) -> Any:
        figure, axes = panels(1, width=5.2)
        axis = axes[0][0]
        for place, (label, data) in enumerate(results.items()):
            entries = [data["selective"][str(alpha)] for alpha in self.alphas]
            marker = MARKERS[place % len(MARKERS)]
            heads = [entry["one token"] for entry in entries]
            axis.plot(self.alphas, heads, color=COLOURS[0], marker=marker, markersize=4, label=label)
        _mark_alphas(axis, self.alphas)
        axis.set_ylabel("share of steps with a one-token head")
        legend_below(axis)
        return figure

    def _draw_acceptance(self, results: Mapping[str, Data]) -> Any:
        figure, axes = panels(2)
        forms = ("difference", *(f"{beta:g}" for beta in self.betas))
        for axis, base in zip(axes[0], _BASES, strict=True):
            for form, colour, marker in zip(forms, COLOURS, MARKERS, strict=False):
                rates = [
                    _accepted([data["drafts"][base][f"{alpha:g}, {form}"] for data in results.values()])
                    for alpha in self.alphas
                ]
                label = form if form == "difference" else f"β = {form}"
                axis.plot(self.alphas, rates, color=colour, marker=marker, markersize=4, label=label)
            axis.set_title(base, fontsize=9)
            _mark_alphas(axis, self.alphas)
            legend_below(axis, 4)
        low = min(axis.get_ylim()[0] for axis in axes[0])
        for axis in axes[0]:
            axis.set_ylim(low, max(one.get_ylim()[1] for one in axes[0]))
        axes[0][0].set_ylabel("share of drafted tokens that stand")
        return figure


def _mark_alphas(axis: Any, alphas: Sequence[float]) -> None:
    """Let an axis show α, whose settings lie evenly apart by their logarithms."""
    axis.set_xscale("log")
    axis.set_xticks(alphas, [f"{alpha:g}" for alpha in alphas])
    axis.minorticks_off()
    axis.set_xlabel("α")


def _value(pair: Pair, tasks: Sequence[Task], scoring: Contrastive | Likelihood, greedy: Sequence[str]) -> float:
    """Return the share of right answers; where nobody knows them, of texts that are greedy decoding's."""
    texts = pair.answer(tasks, scoring)
    scores = main_scores(pair, tasks, texts)
    if scores is None:
        scores = [float(a == b) for a, b in zip(texts, greedy, strict=True)]
    return sum(scores) / len(scores)


def _mean_grid(results: Mapping[str, Data], form: str) -> list[list[float]]:
    grids = [data["grids"][form] for data in results.values()]
    return [[sum(values) / len(values) for values in zip(*lines, strict=True)] for lines in zip(*grids, strict=True)]


def count_steps(pair: Pair, prompts: Sequence[str], alpha: float) -> Data:
    decoder, length = pair.decoder, pair.asked.max_new_tokens
    traced = decoder.generate(list(prompts), Contrastive(alpha), max_new_tokens=length, chat=pair.chat, trace=True)
    sizes = [step.head_size for output in traced for step in output.trace or ()]
    found: Data = {"one token": sum(size == 1 for size in sizes) / len(sizes), "steps": len(sizes)}
    found |= {"passes": None, "all": None, "expert": None}
    if isinstance(decoder.amateur, PreTrainedModel):
        for name, selective in (("passes", True), ("all", False)):
            with passes(decoder.amateur, decoder.expert) as (amateur, expert):
                for prompt in prompts:
                    scoring = Contrastive(alpha, selective=selective)
                    decoder.generate(prompt, scoring, max_new_tokens=length, chat=pair.chat)
            found |= {name: len(amateur), "expert": len(expert)}
    return found


def count_drafts(pair: Pair, prompts: Sequence[str], scoring: Contrastive, strategy: Speculative, seed: int) -> Data:
    length = pair.asked.max_new_tokens
    outputs = pair.decoder.generate(
        list(prompts), scoring, strategy=strategy, max_new_tokens=length, chat=pair.chat, seed=seed
    )
    counts = [output.speculation for output in outputs if output.speculation is not None]
    return {
        "drafted": sum(count.drafted for count in counts),
        "accepted": sum(count.accepted for count in counts),
        "rounds": sum(count.rounds for count in counts),
        "tokens": sum(len(output.token_ids) for output in outputs),
    }


def _accepted(entries: Sequence[Data]) -> float | None:
    """Return the share of drafted tokens that stand, mean of the pairs."""
    return mean(entry["accepted"] / entry["drafted"] if entry["drafted"] else None for entry in entries)


def _tokens_a_pass(entries: Sequence[Data]) -> float:
    tokens, rounds = (sum(int(entry[name]) for entry in entries) for name in ("tokens", "rounds"))
    return tokens / rounds

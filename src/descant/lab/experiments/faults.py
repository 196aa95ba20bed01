"""When not to contrast: truths that are popular, tokens that only the mask let in, an expert that is sure.

Li et al. 2022 (arXiv 2210.15097, section 3.3) name two failures of the bare contrast: what both models find right is
lost (false negatives), and what both find unlikely is promoted (false positives). The mask is there against both.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING

from descant.lab.experiments.base import Data, Pair
from descant.lab.experiments.faults_page import bins_table, draw_gains, example_table, open_table, ratio_table
from descant.lab.experiments.judged import Parting, groups_of, letters, main_scores, partings, summarise, tune
from descant.lab.experiments.tables import methods_table
from descant.lab.studies.identity import digest
from descant.lab.studies.statistics import difference_interval
from descant.lab.studies.tasks import Task
from descant.scoring import Contrastive, Likelihood
from descant.tokens import decode

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_RANKS = {"1": (1, 1), "2–3": (2, 3), "4–10": (4, 10), "11 and beyond": (11, 10**9)}
"""Popularity of the truth among the rumours of its kind, 1 the most popular."""

_SURE = {"below .15": (0.0, 0.15), ".15 to .2": (0.15, 0.2), ".2 to .3": (0.2, 0.3), ".3 to .5": (0.3, 0.5),
         "above .5": (0.5, 2.0)}  # fmt: skip
"""How sure the expert is of its greedy text: the probability of its least probable token."""

_RATIOS = {".1 to .2": (0.0, 0.2), ".2 to .4": (0.2, 0.4), ".4 to .7": (0.4, 0.7), ".7 to 1": (0.7, 2.0)}
"""How probable contrast's token is to the expert, over its best one, where the two part; α = 0.1 is the least."""

_DEFAULT = "contrast, default"
_MASK = "mask alone (β = 0)"


@dataclass(frozen=True)
class Faults:
    """The experiment `faults`.

    Parameters
    ----------
    alphas, taus, betas
        Settings that are tried on development questions.
    open_alphas
        Settings of α that let improbable tokens in.
    dev, test, opened
        How many questions choose, how many are reported, and how many are asked with each open mask.
    examples
        Examples of each kind.
    """

    alphas: tuple[float, ...] = (0.1, 0.2, 0.3, 0.5)
    taus: tuple[float, ...] = (1.0, 2.0)
    betas: tuple[float, ...] = (0.5, 2.0)
    open_alphas: tuple[float, ...] = (0.0001, 0.001, 0.01, 0.1)
    dev: int = 200
    test: int = 2683
    opened: int = 1000
    examples: int = 2

    name = "faults"
    title = "Faults of contrast, and when not to use it"
    question = (
        "Which right answers does contrast lose, which improbable tokens does it promote, where is nothing gained?"
    )

    def run(self, pair: Pair) -> Data:
        dev, test = pair.tasks("dev", self.dev), pair.tasks("test", self.test)
        chosen = self._chosen(pair, dev)
        texts = {"greedy": pair.answer(test, Likelihood())}
        alone = pair.alone()
        if alone is not None:
            texts["amateur, greedy"] = alone.answer(test, Likelihood())
        texts |= {name: pair.answer(test, scoring) for name, scoring in chosen.items()}
        base = texts["greedy"]
        methods = {name: summarise(pair, test, own, base) for name, own in texts.items()}
        for name, scoring in chosen.items():
            methods[name]["setting"] = letters(scoring)
        contrasted = {name: texts[name] for name in texts if name == "greedy" or (name in chosen and name != _MASK)}
        found = self._parted(pair, test)
        sure = pair.cells.measure(
            {"measure": "sure", "tasks": digest([task.prompt for task in test])}, partial(_least_probable, pair, test)
        )
        return {
            "questions": {"dev": len(dev), "test": len(test)},
            "methods": methods,
            "by rank": _by_rank(pair, test, contrasted),
            "by fame": _by_fame(pair, test, contrasted),
            "by sureness": by_bin(pair, test, contrasted, sure, _SURE),
            "by ratio": _by_ratio(pair, test, texts, found),
            "open masks": [self._open(pair, alpha) for alpha in self.open_alphas],
            "examples": self._examples(pair, test, texts, found),
        }

    def _chosen(self, pair: Pair, dev: Sequence[Task]) -> dict[str, Contrastive]:
        difference = [Contrastive(alpha, amateur_temperature=tau) for alpha in self.alphas for tau in self.taus]
        beta = [Contrastive(alpha, beta=beta) for alpha in self.alphas for beta in self.betas]
        chosen = {_MASK: Contrastive(beta=0.0), _DEFAULT: Contrastive()}
        if main_scores(pair, dev, pair.answer(dev, Likelihood())) is not None:
            chosen |= {"difference form, tuned": tune(pair, dev, difference), "β form, tuned": tune(pair, dev, beta)}
        return chosen

    def _parted(self, pair: Pair, test: Sequence[Task]) -> list[Data]:
        """Return where the default contrast and greedy part, with both models' probabilities of the two tokens."""
        found = partings(pair, test, Contrastive())
        settings = {"measure": "parted", "partings": digest([asdict(parting) for parting in found])}
        probabilities = pair.cells.measure(settings, partial(_probabilities, pair, found))
        return [{**asdict(parting), **row} for parting, row in zip(found, probabilities, strict=True)]

    def _open(self, pair: Pair, alpha: float) -> Data:
        """Return what becomes of the answers if the mask lets in all tokens from α on."""
        tasks = pair.tasks("test", self.opened)
        base = pair.answer(tasks, Likelihood())
        return {"alpha": alpha, **summarise(pair, tasks, pair.answer(tasks, Contrastive(alpha)), base)}

    def _examples(
        self, pair: Pair, test: Sequence[Task], texts: Mapping[str, Sequence[str]], found: Sequence[Data]
    ) -> list[Data]:
        """Return examples: mended, a popular truth lost, an improbable token promoted; with no judge, any."""
        greedy, contrast = (main_scores(pair, test, texts[name]) for name in ("greedy", _DEFAULT))
        if greedy is None or contrast is None:
            return [_example(pair, test, texts, "parted", one) for one in found[: 3 * self.examples]]
        kinds: dict[str, Callable[[int, Data], bool]] = {
            "mended": lambda i, _: contrast[i] > greedy[i],
            "a right answer lost": lambda i, _: contrast[i] < greedy[i],
            "an improbable token promoted, wrong": lambda i, one: not contrast[i] and ratio_of(one) < 0.2,
        }
        return [
            _example(pair, test, texts, kind, one)
            for kind, belongs in kinds.items()
            for one in [one for one in found if belongs(one["place"], one)][: self.examples]
        ]

    def page(self, results: Mapping[str, Data]) -> str:
        first = next(iter(results.values()))
        counts = first["questions"]
        parts = [
            "## All questions",
            f"{counts['test']} test questions; settings tuned on {counts['dev']} development questions. Intervals "
            "resample groups of questions.",
            methods_table(results),
        ]
        if first["by rank"]:
            parts += [
                "## Where the truth is itself a popular rumour",
                "Right answers by the popularity of the truth as a rumour (1: what everybody says of anybody), mean of "
                "the pairs; in brackets, points over greedy of the pairs one by one.",
                bins_table(results, "by rank", "rank of the truth"),
                "![Gain over greedy by the popularity of the truth](faults-rank.svg)",
                "The same for the facts mentioned least, in between, and most: thirds of the logarithm of frequency.",
                bins_table(results, "by fame", "rank of the truth, mentions"),
            ]
        if first["by sureness"]:
            parts += [
                "## Where the expert is sure",
                "By the probability of the least probable token of the expert's greedy text.",
                bins_table(results, "by sureness", "least probable token"),
                "![Gain over greedy by how sure the expert is](faults-sure.svg)",
            ]
        if first["by ratio"]:
            parts += [
                "## Improbable tokens that the mask lets in",
                "Texts of the default contrast that part from greedy decoding's, by the expert's probability of the "
                "token that contrast takes over that of the token greedy decoding takes; all pairs together.",
                ratio_table(results),
            ]
        parts += [
            f"The mask opened (difference form, τ = 1, the first {min(self.opened, counts['test'])} questions).",
            open_table(results),
            "## Examples",
            "Of the first pair. Probabilities are of the first token at which contrast and greedy decoding part, to "
            "the expert and to the amateur.",
            example_table(first["examples"]),
        ]
        return "\n\n".join(parts)

    def figures(self, results: Mapping[str, Data]) -> Mapping[str, "Figure"]:
        first = next(iter(results.values()))
        drawn = {}
        if first["by rank"]:
            drawn["rank"] = draw_gains(results, "by rank", "popularity of the truth as a rumour, by rank")
        if first["by sureness"]:
            drawn["sure"] = draw_gains(
                results, "by sureness", "probability of the least probable token of greedy's text"
            )
        return drawn


def _least_probable(pair: Pair, tasks: Sequence[Task]) -> list[float]:
    """Return the probability of the least probable token of each greedy text."""
    outputs = pair.decoder.generate(
        [task.prompt for task in tasks], Likelihood(), max_new_tokens=pair.asked.max_new_tokens, chat=pair.chat
    )
    return [math.exp(min(output.logprobs)) if output.logprobs else 1.0 for output in outputs]


def _probabilities(pair: Pair, found: Sequence[Parting]) -> list[Data]:
    """Return both models' probabilities of the two tokens at each parting."""
    prefixes = [parting.prefix for parting in found]
    rows: list[Data] = [{} for _ in found]
    for model, read in (("expert", pair), ("amateur", pair.alone())):
        for kind in ("greedy", "contrast"):
            scores: Sequence[float | None] = [None] * len(found)
            if read is not None and found:
                scores = read.decoder.score(prefixes, [[getattr(parting, kind)] for parting in found], Likelihood())
            for row, score in zip(rows, scores, strict=True):
                row[f"{model} of {kind}"] = None if score is None else math.exp(score)
    return rows


def ratio_of(one: Data) -> float:
    """Return how probable contrast's token is to the expert, over the token of greedy decoding."""
    return float(one["expert of contrast"] / one["expert of greedy"])


def _bin(values: Sequence[bool], scores: Mapping[str, list[float]], groups: Sequence[str]) -> Data:
    """Return the number of members, each method's share of right answers, and its gain over greedy."""
    places = [place for place, member in enumerate(values) if member]
    members = [groups[place] for place in places]
    found: Data = {"count": len(places), "right": {}, "gain": {}}
    for name, own in scores.items():
        chosen = [own[place] for place in places]
        base = [scores["greedy"][place] for place in places]
        found["right"][name] = sum(chosen) / len(chosen) if chosen else None
        found["gain"][name] = asdict(difference_interval(chosen, base, members)) if chosen else None
    return found


def _scores(pair: Pair, tasks: Sequence[Task], texts: Mapping[str, Sequence[str]]) -> dict[str, list[float]] | None:
    """Return which answers of each method are right; None where nobody knows."""
    found = {name: main_scores(pair, tasks, own) for name, own in texts.items()}
    known = {name: scores for name, scores in found.items() if scores is not None}
    return known if len(known) == len(found) else None


def by_bin(
    pair: Pair,
    tasks: Sequence[Task],
    texts: Mapping[str, Sequence[str]],
    values: Sequence[float],
    bins: Mapping[str, tuple[float, float]],
) -> dict[str, Data]:
    """Return methods' right answers by where a value of the task lies: from the first number to below the second."""
    scores = _scores(pair, tasks, texts)
    if scores is None:
        return {}
    groups = groups_of(tasks)
    return {name: _bin([low <= value < high for value in values], scores, groups) for name, (low, high) in bins.items()}


def _by_rank(pair: Pair, tasks: Sequence[Task], texts: Mapping[str, Sequence[str]]) -> dict[str, Data]:
    if not all("truth_rank" in task.facts for task in tasks):
        return {}
    bins = {name: (low, high + 1) for name, (low, high) in _RANKS.items()}
    return by_bin(pair, tasks, texts, [task.facts["truth_rank"] for task in tasks], bins)


def _by_fame(pair: Pair, tasks: Sequence[Task], texts: Mapping[str, Sequence[str]]) -> dict[str, Data]:
    """Return the same by rank and by thirds of the logarithm of how often the fact is mentioned."""
    scores = _scores(pair, tasks, texts)
    if scores is None or not all({"truth_rank", "frequency"} <= task.facts.keys() for task in tasks):
        return {}
    logs = [math.log(task.facts["frequency"]) for task in tasks]
    low, high = min(logs), max(logs)
    thirds = [min(int(3 * (value - low) / (high - low or 1)), 2) for value in logs]
    groups = groups_of(tasks)
    found = {}
    for ranks, (first, last) in {"1–3": (1, 3), "4 and beyond": (4, 10**9)}.items():
        for third, mentions in enumerate(("rare", "middling", "frequent")):
            members = [
                first <= task.facts["truth_rank"] <= last and own == third
                for task, own in zip(tasks, thirds, strict=True)
            ]
            found[f"{ranks}, {mentions}"] = _bin(members, scores, groups)
    return found


def _by_ratio(
    pair: Pair, tasks: Sequence[Task], texts: Mapping[str, Sequence[str]], found: Sequence[Data]
) -> dict[str, Data]:
    """Return what became of the texts that parted, by how improbable the promoted token is."""
    scores = _scores(pair, tasks, texts)
    if scores is None:
        return {}
    counted = {}
    for name, (low, high) in _RATIOS.items():
        places = [one["place"] for one in found if low <= ratio_of(one) < high]
        gains = [scores[_DEFAULT][place] - scores["greedy"][place] for place in places]
        counted[name] = {
            "count": len(places),
            "won": sum(gain > 0 for gain in gains),
            "lost": sum(gain < 0 for gain in gains),
        }
    return counted


def _example(pair: Pair, tasks: Sequence[Task], texts: Mapping[str, Sequence[str]], kind: str, one: Data) -> Data:
    tokenizer, place = pair.decoder.tokenizer, one["place"]
    assert tokenizer is not None
    found: Data = {"kind": kind, "prompt": tasks[place].prompt, "truth": tasks[place].facts.get("answer")}
    names = {"greedy": "greedy", "amateur": "amateur, greedy", "contrast": _DEFAULT}
    found["texts"] = {name: texts[key][place].strip() for name, key in names.items() if key in texts}
    found["tokens"] = {
        kind: {
            "text": decode(tokenizer, [one[kind]]).strip(),
            "expert": one[f"expert of {kind}"],
            "amateur": one[f"amateur of {kind}"],
        }
        for kind in ("greedy", "contrast")
    }
    return found

"""What methods are compared by on tasks of any world, beside one another and with a base."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from descant.lab.experiments.base import Data, Pair
from descant.lab.experiments.judged import MAIN, groups_of, tally
from descant.lab.metrics.repetition import diversity
from descant.lab.studies.statistics import difference_interval, holm, mean_interval
from descant.lab.studies.tasks import Task
from descant.lab.worlds import Grammar

OPEN = "valid"


def judge(pair: Pair, tasks: Sequence[Task], texts: Sequence[str]) -> dict[str, list[float]]:
    """Return all scores of texts by name; `diversity` is one of them where texts are open-ended."""
    scores = pair.judge(tasks, texts)
    if MAIN not in scores:
        scores["diversity"] = [diversity(text) if len(text.split()) > 1 else 0.0 for text in texts]
    return scores


def main_score(scores: dict[str, list[float]]) -> str:
    """Return the name of the score that methods are compared by: right, else valid, else diverse."""
    return next(name for name in (MAIN, OPEN, "diversity") if name in scores)


def distance(pair: Pair, tasks: Sequence[Task], texts: Sequence[str]) -> float | None:
    """Return how far the word pairs of texts are from those of true continuations, where these are known."""
    if not isinstance(pair.asked, Grammar):
        return None
    return pair.asked.total_variation([task.prompt for task in tasks], texts)


def merit(pair: Pair, tasks: Sequence[Task], texts: Sequence[str]) -> float | None:
    """Return what settings are chosen by: right answers, or nearness to the true distribution; None if nobody knows."""
    far = distance(pair, tasks, texts)
    if far is not None:
        return -far
    right = pair.judge(tasks, texts).get(MAIN)
    return None if right is None else sum(right) / len(right)


def summarise(pair: Pair, tasks: Sequence[Task], texts: Sequence[str], base: Sequence[str]) -> Data:
    """Return means with intervals, and the difference from the base in the main score and in diversity."""
    groups = groups_of(tasks)
    scores, others = judge(pair, tasks, texts), judge(pair, tasks, base)
    main = main_score(scores)
    compared = [main, *({"diversity"} & scores.keys() - {main})]
    return {
        "main": main,
        "scores": {name: asdict(mean_interval(values, groups)) for name, values in scores.items()},
        "distance": distance(pair, tasks, texts),
        "differences": {
            name: {
                **asdict(difference_interval(scores[name], others[name], groups)),
                **tally(scores[name], others[name], groups),
            }
            for name in compared
        },
    }


def correct(methods: dict[str, Data]) -> None:
    """Add to every difference its p-value corrected by Holm for the methods that are compared with the base."""
    for score in {name for entry in methods.values() for name in entry["differences"]}:
        entries: list[dict[str, Any]] = [entry["differences"][score] for entry in methods.values()]
        for entry, p in zip(entries, holm([entry["p"] for entry in entries]), strict=True):
            entry["holm"] = p

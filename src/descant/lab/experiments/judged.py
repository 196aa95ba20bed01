"""Methods judged on tasks, settings chosen on the development tasks, and where two methods part."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from descant.lab.experiments.base import Data, Pair
from descant.lab.studies.identity import digest
from descant.lab.studies.statistics import difference_interval, mean_interval, paired_test
from descant.lab.studies.tasks import Task
from descant.scoring import Contrastive, Likelihood, Scoring

MAIN = "correct"
"""The score that settings are chosen by and methods compared in, where a world's judge gives it."""


@dataclass(frozen=True)
class Parting:
    """The first token at which contrast parts from the expert's greedy choice.

    Attributes
    ----------
    place
        Which task, by its place among them.
    prefix
        Token ids before it, prompt included.
    greedy, contrast
        The two tokens.
    """

    place: int
    prefix: list[int]
    greedy: int
    contrast: int


def main_scores(pair: Pair, tasks: Sequence[Task], texts: Sequence[str]) -> list[float] | None:
    """Return whether each text is right; None where nobody knows."""
    return pair.judge(tasks, texts).get(MAIN)


def summarise(pair: Pair, tasks: Sequence[Task], texts: Sequence[str], base: Sequence[str]) -> Data:
    """Return the mean of every score with its interval, and the gain over the texts of another method.

    Intervals and the test resample groups of tasks.
    """
    groups = groups_of(tasks)
    found: Data = {
        "same": sum(a == b for a, b in zip(texts, base, strict=True)) / max(1, len(texts)),
        "scores": {name: asdict(mean_interval(values, groups)) for name, values in pair.judge(tasks, texts).items()},
    }
    scores, others = main_scores(pair, tasks, texts), main_scores(pair, tasks, base)
    if scores is not None and others is not None:
        found |= {
            "gain": asdict(difference_interval(scores, others, groups)),
            **tally(scores, others, groups),
        }
    return found


def tally(scores: Sequence[float], others: Sequence[float], groups: Sequence[str]) -> Data:
    """Return on how many tasks each of two methods is better, and the p-value of the difference."""
    return {
        "won": sum(a > b for a, b in zip(scores, others, strict=True)),
        "lost": sum(a < b for a, b in zip(scores, others, strict=True)),
        "p": paired_test(scores, others, groups),
    }


def groups_of(tasks: Sequence[Task]) -> list[str]:
    """Return the group of each task."""
    return [task.id if task.group is None else task.group for task in tasks]


def tune(pair: Pair, tasks: Sequence[Task], grid: Sequence[Contrastive]) -> Contrastive:
    """Return the setting of a grid with the most right answers, the first of equals.

    Where nobody knows what is right nothing can be chosen, and it is the paper's setting.
    """
    best, chosen = -1.0, Contrastive()
    for scoring in grid:
        scores = main_scores(pair, tasks, pair.answer(tasks, scoring))
        if scores is None:
            break
        if sum(scores) > best:
            best, chosen = sum(scores), scoring
    return chosen


def letters(scoring: Contrastive) -> str:
    """Return a setting as the formulas have it."""
    if scoring.beta is not None:
        return f"α={scoring.alpha:g}, β={scoring.beta:g}"
    return f"α={scoring.alpha:g}, τ={scoring.amateur_temperature:g}"


def partings(pair: Pair, tasks: Sequence[Task], scoring: Scoring) -> list[Parting]:
    """Return where contrast parts from greedy decoding, for the tasks where it does."""
    prompts = [task.prompt for task in tasks]
    length = pair.asked.max_new_tokens

    def compute() -> list[dict[str, Any]]:
        greedy, contrast = (
            pair.decoder.generate(prompts, method, max_new_tokens=length, chat=pair.chat)
            for method in (Likelihood(), scoring)
        )
        found = []
        for place, (one, other) in enumerate(zip(greedy, contrast, strict=True)):
            parted = [a != b for a, b in zip(one.token_ids, other.token_ids, strict=False)]
            if True in parted:
                at = parted.index(True)
                prefix = [*one.prompt_token_ids, *one.token_ids[:at]]
                found.append(asdict(Parting(place, prefix, one.token_ids[at], other.token_ids[at])))
        return found

    settings = {"measure": "partings", "method": repr(scoring), "tasks": digest(prompts), "max_new_tokens": length}
    return [Parting(**entry) for entry in pair.cells.measure(settings, compute)]

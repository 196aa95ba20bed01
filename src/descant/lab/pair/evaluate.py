"""Measure the bundled pair: ``python -m descant.lab.pair.evaluate SEED0 SEED1 SEED2``.

Each argument is a folder written by `descant.lab.pair.train`; without arguments the package's own weights are
measured. Settings are chosen on the development questions of each pair and used once on its test questions.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from transformers import PreTrainedModel

from descant.decoder import Decoder
from descant.demo import Question, demo_paths, demo_world, questions
from descant.files import write_whole
from descant.lab.pair.card import render
from descant.lab.studies.statistics import mcnemar
from descant.scoring import Contrastive, Likelihood
from descant.strategies import Greedy

Judged = list[str | None]  # the answer that each question got, if the text gives one
ALPHAS = (0.05, 0.1, 0.2, 0.3, 0.5)
TAUS = (0.5, 1.0, 2.0)
BETAS = (0.25, 0.5, 1.0, 2.0)


@dataclass(frozen=True)
class PairFigures:
    """What one method reached on a set of questions.

    Parameters
    ----------
    accuracy, rare, frequent : float
        Share of right answers: of all questions, and of the facts in the lowest and the highest third of
        frequencies, on a logarithmic scale.
    rumour : float
        Share of all questions answered wrongly with one of the relation's three most popular rumours.
    popular_truth : float
        Share of right answers where the truth is itself one of the three.
    other_truth : float
        Share of right answers elsewhere.
    no_answer : float
        Share of texts that give none of the relation's answers.
    """

    accuracy: float
    rare: float
    frequent: float
    rumour: float
    popular_truth: float
    other_truth: float
    no_answer: float


@dataclass(frozen=True)
class Comparison:
    """A method against the expert's greedy answers, on the same questions.

    Parameters
    ----------
    won, lost : int
        Questions that only the method, or only greedy, answers rightly.
    gain, low, high : float
        Difference of accuracies with its 95% interval, from a bootstrap that resamples people.
    p : float
        Two-sided exact McNemar test.
    """

    won: int
    lost: int
    gain: float
    low: float
    high: float
    p: float


def judge(decoder: Decoder, asked: Sequence[Question], scoring: Likelihood | Contrastive) -> Judged:
    """Let a decoder answer questions.

    Parameters
    ----------
    decoder : Decoder
        Who answers.
    asked : sequence of Question
        What is asked.
    scoring : Likelihood or Contrastive
        How tokens are scored; the choice is greedy.

    Returns
    -------
    list of str or None
        The answer read off each text.
    """
    world = demo_world()
    said: Judged = []
    for start in range(0, len(asked), 256):
        part = asked[start : start + 256]
        outs = decoder.generate([q.prompt for q in part], scoring=scoring, strategy=Greedy(), max_new_tokens=24)
        said += [world.said(q, out.text) for q, out in zip(part, outs, strict=True)]
    return said


def figures(asked: Sequence[Question], said: Judged) -> PairFigures:
    """Summarise answers."""
    world = demo_world()
    third = world.spec.fame ** (1 / 3)
    right = [a == q.answer for q, a in zip(asked, said, strict=True)]

    def share(member: Callable[[Question], bool]) -> float:
        chosen = [ok for q, ok in zip(asked, right, strict=True) if member(q)]
        return sum(chosen) / max(1, len(chosen))

    return PairFigures(
        accuracy=share(lambda _: True),
        rare=share(lambda q: q.frequency < third),
        frequent=share(lambda q: q.frequency > third**2),
        rumour=sum(
            a is not None and not ok and world.rank(q.relation, a) <= 3
            for q, a, ok in zip(asked, said, right, strict=True)
        )
        / len(asked),
        popular_truth=share(lambda q: q.truth_rank <= 3),
        other_truth=share(lambda q: q.truth_rank > 3),
        no_answer=sum(a is None for a in said) / len(asked),
    )


def compare(asked: Sequence[Question], said: Judged, base: Judged, draws: int = 2000) -> Comparison:
    """Compare two sets of answers to the same questions.

    Parameters
    ----------
    asked : sequence of Question
        The questions.
    said, base : list of str or None
        Answers of the method and of what it is compared to.
    draws : int
        Bootstrap resamples. People are resampled, not questions, for the facts of a person are equally known.

    Returns
    -------
    Comparison
        With a percentile interval and an exact McNemar test.
    """
    people: dict[str, list[int]] = {}
    won = lost = 0
    for q, a, b in zip(asked, said, base, strict=True):
        difference = (a == q.answer) - (b == q.answer)
        won, lost = won + (difference > 0), lost + (difference < 0)
        entry = people.setdefault(q.person, [0, 0])
        entry[0] += difference
        entry[1] += 1
    rng = Random(0)
    entries = list(people.values())
    gains = []
    for _ in range(draws):
        sample = rng.choices(entries, k=len(entries))
        gains.append(sum(d for d, _ in sample) / sum(n for _, n in sample))
    gains.sort()
    low, high = gains[int(0.025 * draws)], gains[int(0.975 * draws)]
    return Comparison(won, lost, (won - lost) / len(asked), low, high, mcnemar(won, lost))


def tune(decoder: Decoder, asked: Sequence[Question], grid: Sequence[Contrastive]) -> Contrastive:
    """Choose the setting with the most right answers; the first of equals."""

    def right(scoring: Contrastive) -> int:
        score = sum(a == q.answer for q, a in zip(asked, judge(decoder, asked, scoring), strict=True))
        print(f"  {_settings(scoring)}: {score / len(asked):.4f}", file=sys.stderr, flush=True)
        return score

    return max(grid, key=right)


@torch.inference_mode()
def agreement(pair: Decoder, asked: Sequence[Question]) -> dict[str, float]:
    """How often the amateur would have chosen the expert's next token.

    Parameters
    ----------
    pair : Decoder
        Expert and amateur.
    asked : sequence of Question
        The expert answers them greedily, and the amateur reads along.

    Returns
    -------
    dict of str to float
        Share of agreement over all generated tokens, and over those that are not part of the answer.
    """
    world, tokenizer, amateur = demo_world(), pair.tokenizer, pair.amateur
    if tokenizer is None or not isinstance(amateur, PreTrainedModel):
        raise TypeError("agreement needs a tokenizer and an amateur that is a model of its own")
    same: list[bool] = []
    outside: list[bool] = []
    for q, out in zip(asked, pair.generate([q.prompt for q in asked], scoring=Likelihood()), strict=True):
        prompt = tokenizer(q.prompt)["input_ids"]
        chosen = amateur(torch.tensor([[*prompt, *out.token_ids]])).logits[0].argmax(-1)[len(prompt) - 1 : -1]
        agreed = [a == b for a, b in zip(chosen.tolist(), out.token_ids, strict=True)]
        said = world.said(q, out.text)
        answer = tokenizer(f" {said}", add_special_tokens=False)["input_ids"] if said else []
        starts = [i for i in range(len(agreed)) if list(out.token_ids[i : i + len(answer)]) == answer]
        inside = range(starts[0], starts[0] + len(answer)) if starts else range(0)
        same += agreed
        outside += [ok for i, ok in enumerate(agreed) if i not in inside]
    return {"all": sum(same) / len(same), "outside_answers": sum(outside) / len(outside)}


def measure(folder: Path, limit: int | None = None) -> dict[str, Any]:
    """Measure one pair.

    Parameters
    ----------
    folder : Path
        As written by `descant.lab.pair.train`.
    limit : int, optional
        Use only so many questions of each kind, for a quick try.

    Returns
    -------
    dict
        PairFigures, comparisons and chosen settings; plain data.
    """
    pair = Decoder.from_pretrained(folder / "expert", amateur=folder / "amateur", dtype="float32", device="cpu")
    alone = Decoder.from_pretrained(folder / "amateur", dtype="float32", device="cpu")
    dev, test = questions("dev", limit=limit), questions("test", limit=limit)
    difference = [Contrastive(alpha=a, amateur_temperature=t) for a in ALPHAS for t in TAUS]
    beta = [Contrastive(alpha=a, beta=b) for a in ALPHAS for b in BETAS]
    chosen = {"difference": tune(pair, dev, difference), "beta": tune(pair, dev, beta)}
    scorings: dict[str, Likelihood | Contrastive] = {
        "min-p": Contrastive(alpha=chosen["beta"].alpha, beta=0.0),
        "difference-default": Contrastive(),
        **chosen,
    }
    print("  test", file=sys.stderr, flush=True)
    base = judge(pair, test, Likelihood())
    said = {"amateur": judge(alone, test, Likelihood()), "greedy": base}
    said |= {name: judge(pair, test, scoring) for name, scoring in scorings.items()}
    return {
        "training": json.loads((folder / "training.json").read_text()),
        "settings": {name: _settings(scoring) for name, scoring in scorings.items()},
        "methods": {name: asdict(figures(test, answers)) for name, answers in said.items()},
        "against_greedy": {name: asdict(compare(test, said[name], base)) for name in scorings},
        "held_out_phrasing": _held_out(pair, alone, chosen, limit),
        "agreement": agreement(pair, test[:200]),
        "questions": {"dev": len(dev), "test": len(test)},
    }


def _held_out(pair: Decoder, alone: Decoder, chosen: dict[str, Contrastive], limit: int | None) -> dict[str, Any]:
    asked = questions("test", phrasing="held-out", limit=limit)
    base = judge(pair, asked, Likelihood())
    said = {"amateur": judge(alone, asked, Likelihood()), "greedy": base}
    said |= {name: judge(pair, asked, scoring) for name, scoring in chosen.items()}
    return {
        "methods": {name: asdict(figures(asked, answers)) for name, answers in said.items()},
        "against_greedy": {name: asdict(compare(asked, said[name], base)) for name in chosen},
    }


def _settings(scoring: Likelihood | Contrastive) -> dict[str, float]:
    if isinstance(scoring, Likelihood):
        return {}
    if scoring.beta is not None:
        return {"alpha": scoring.alpha, "beta": scoring.beta}
    return {"alpha": scoring.alpha, "amateur_temperature": scoring.amateur_temperature}


def merge(results: list[dict[str, Any]], new: dict[str, Any]) -> list[dict[str, Any]]:
    """Put the result of a pair among those of pairs that differ from it in nothing but the seed."""

    def key(result: dict[str, Any]) -> tuple[dict[str, Any], int]:
        spec = dict(result["training"]["spec"])
        seed = spec.pop("seed")
        return {"spec": spec, "questions": result["questions"]}, seed

    kind, seed = key(new)
    kept = [result for result in results if key(result)[0] == kind and key(result)[1] != seed]
    return sorted([*kept, new], key=lambda result: key(result)[1])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure pairs, write ``results.json`` and ``MODEL_CARD.md``.

    Pairs measured earlier stay in the record if they differ from the new ones in nothing but the seed, so
    that pairs can be measured one by one.
    """
    parser = argparse.ArgumentParser(prog="python -m descant.lab.pair.evaluate", description="Measure pairs.")
    parser.add_argument("pairs", type=Path, nargs="*", help="folders of pairs, the shipped one first")
    parser.add_argument("--out", type=Path, default=demo_paths()[0].parents[1], help="where the two files go")
    parser.add_argument("--limit", type=int, help="use so many questions only, for a quick try")
    options = parser.parse_args(arguments)
    record = options.out / "results.json"
    results = json.loads(record.read_text()) if record.exists() else []
    for folder in options.pairs or [demo_paths()[0].parent]:
        print(folder, file=sys.stderr, flush=True)
        results = merge(results, measure(folder, options.limit))
    for name, text in (
        ("results.json", json.dumps(results, indent=1) + "\n"),
        ("MODEL_CARD.md", render(results)),
    ):
        write_whole(options.out / name, text)
        print(options.out / name)


if __name__ == "__main__":
    main()

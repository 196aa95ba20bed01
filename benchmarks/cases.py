"""What is measured, case by case. Each function returns rows of a table and says what they mean."""

import time
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import torch

from benchmarks.shapes import SHAPES, bundled, peaked, shape
from descant import Contrastive, Decoder, Likelihood, Sample, Temperature, TopP
from descant.calls.options import Options
from descant.calls.run import Run
from descant.engine.loop import Engine
from descant.lab.bench.measure import Spread, interleaved, ratio
from descant.models import RunnerName
from descant.scoring import Scoring
from descant.sources.sources import Sources
from descant.strategies import Greedy, Strategy
from descant.types import Logits

Row = dict[str, Any]
RUNNERS: tuple[RunnerName, ...] = ("eager", "compiled")

ROUNDS = {"bundled expert": 15, "gpt2": 9, "Qwen2.5-0.5B": 9}
NEW_TOKENS = {"bundled expert": 64, "gpt2": 24, "Qwen2.5-0.5B": 16}
PROMPT_TOKENS = 24
LONG_PROMPT_TOKENS = 768
"""For GPT-2 alone: its context is long enough, and its prefill short enough."""


def prompts_of(rows: int, tokens: int = PROMPT_TOKENS) -> list[list[int]]:
    """Return prompts of random tokens, the same ones for as many rows."""
    generator = torch.Generator().manual_seed(rows)
    listed: list[list[int]] = torch.randint(10, 2000, (rows, tokens), generator=generator).tolist()
    return listed


def run_of(
    decoder: Decoder, scoring: Scoring, processors: Sequence[Any], strategy: Strategy, rows: int, new: int
) -> Run:
    """Return a call for so many rows, each to gain `new` tokens, whose engine has not been given them yet."""
    options = Options(scoring, tuple(processors), strategy, new, (), True, 0, False, None, 0, False, 64)
    return decoder._run(prompts_of(rows), options, None, follow=False)


def greedy() -> list[Row]:
    """Greedy decoding, eager, against `model.generate`: whole calls, equal prompt lengths, so that neither pads."""
    table = []
    for name in SHAPES:
        model = shape(name)
        decoder = Decoder(model, runner="eager")
        for rows, tokens in ((1, PROMPT_TOKENS), (16, PROMPT_TOKENS), (1, LONG_PROMPT_TOKENS)):
            if tokens == LONG_PROMPT_TOKENS and name != "gpt2":
                continue
            prompts, count = prompts_of(rows, tokens), NEW_TOKENS[name]
            ids = torch.tensor(prompts)
            mask = torch.ones_like(ids)

            def theirs(ids: Any = ids, mask: Any = mask, count: int = count, model: Any = model) -> Any:
                return model.generate(ids, attention_mask=mask, max_new_tokens=count, do_sample=False)

            def ours(prompts: Any = prompts, count: int = count, decoder: Decoder = decoder) -> Any:
                return decoder.generate(prompts, max_new_tokens=count, ignore_eos=True)

            seconds = interleaved({"transformers": theirs, "descant": ours}, rounds=ROUNDS[name])
            table.append(
                {
                    "model": name,
                    "dtype": str(model.dtype).removeprefix("torch."),
                    "batch": rows,
                    "prompt + new": f"{tokens} + {count}",
                    "transformers ms/step": _per_step(seconds["transformers"], count),
                    "descant ms/step": _per_step(seconds["descant"], count),
                    "time over transformers": ratio(seconds["descant"], seconds["transformers"]),
                    "target": "≤ 1",
                }
            )
    return table


def contrastive() -> list[Row]:
    """Contrastive decoding against our own greedy decoding, on the bundled pair with its own questions."""
    from descant.demo import questions

    expert, amateur, tokenizer = bundled()
    texts = [question.prompt for question in questions("dev")]
    always = Contrastive(selective=False)
    table = []
    for runner, rows in product(RUNNERS, (1, 16)):
        plain = Decoder(expert, tokenizer, runner=runner)
        pair = Decoder(expert, tokenizer, amateur, runner=runner)
        prompts = texts[:rows]
        count = NEW_TOKENS["bundled expert"]
        settings: dict[str, Any] = {"max_new_tokens": count, "ignore_eos": True}
        cases = {
            "greedy": lambda d=plain, p=prompts, s=settings: d.generate(p, Likelihood(), **s),
            "contrastive": lambda d=pair, p=prompts, s=settings: d.generate(p, Contrastive(), **s),
            "amateur every step": lambda d=pair, p=prompts, s=settings, a=always: d.generate(p, a, **s),
        }
        seconds = interleaved(cases, rounds=ROUNDS["bundled expert"])
        table += [
            {
                "method": name,
                "batch": rows,
                "runner": runner,
                "ms/step": _per_step(seconds[name], count),
                "time over greedy": ratio(seconds[name], seconds["greedy"]),
                "target": "≤ 1.25" if (name, rows) == ("contrastive", 1) else "",
            }
            for name in cases
        ]
    return table


class _TimedSources(Sources):
    """Adds up the time spent in the models."""

    seconds = 0.0

    def read(
        self, names: Sequence[str], texts: Sequence[Sequence[int]], keep: int = 1, **asked: Any
    ) -> Mapping[str, Logits]:
        start = time.perf_counter()
        logits = super().read(names, texts, keep, **asked)
        self.seconds += time.perf_counter() - start
        return logits


def selection() -> list[Row]:
    """The share of a step that is not spent in the models, at a vocabulary of 151,936.

    Random weights give nearly equal logits, which no trained model does and which no truncation can shorten: the final
    norm is scaled so that they spread with a standard deviation of about 8 (1.7 nats of entropy). Contrast runs two
    models of that shape.
    """
    model = peaked(shape("Qwen2.5-0.5B"))
    decoder = Decoder(model, amateur=model)
    methods = {
        "greedy": (Likelihood(), (), None),
        "contrastive": (Contrastive(selective=False), (), None),
        "sampling, temperature and top-p": (Likelihood(), (Temperature(0.8), TopP(0.9)), Sample()),
    }
    table = []
    for rows in (1, 16):
        for name, (scoring, processors, strategy) in methods.items():
            shares, milliseconds = [], []
            for _ in range(5):
                share, cost = _selection_share(decoder, scoring, processors, strategy, rows)
                shares.append(share)
                milliseconds.append(cost)
            table.append(
                {
                    "method": name,
                    "batch": rows,
                    "selection ms/step": Spread.of(milliseconds),
                    "share of a step": Spread.of(shares),
                    "target": "≤ 0.05",
                }
            )
    return table


def _selection_share(
    decoder: Decoder, scoring: Any, processors: Sequence[Any], strategy: Any, rows: int
) -> tuple[float, float]:
    run = run_of(decoder, scoring, processors, strategy or Greedy(), rows, new=9)
    sources, method = run.engine.sources, run.engine.method
    timed = _TimedSources(sources.expert, sources.others, sources.width)
    engine = Engine(timed, method, batch_rows=rows, max_rows=64)
    engine.add(run.rows)
    engine.step()  # the prefill
    timed.seconds = 0.0
    start, steps = time.perf_counter(), 0
    while engine.busy:
        engine.step()
        steps += 1
    total = time.perf_counter() - start
    return (total - timed.seconds) / total, (total - timed.seconds) / steps * 1e3


def _per_step(seconds: list[float], steps: int) -> Spread:
    return Spread.of([value / steps * 1e3 for value in seconds])

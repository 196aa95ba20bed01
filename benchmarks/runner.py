"""Compiled decode passes against eager ones and against `model.generate`."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from benchmarks.shapes import bundled, shape
from descant.lab.bench.measure import Spread, interleaved, ratio
from descant.models import inspect_model, open_runner
from descant.models.ragged import RaggedModel

_MODELS = ("bundled expert", "bundled amateur", "gpt2", "Qwen2.5-0.5B")
_STEPS = {"bundled expert": 40, "bundled amateur": 40, "gpt2": 10, "Qwen2.5-0.5B": 6}
_PROMPT_TOKENS = 24


def runner(models: tuple[str, ...] = _MODELS) -> list[dict[str, Any]]:
    """A decode pass of one row, over its model's bytes: greedy steps (1 token) and verifications of 4 drafts (5).

    Compilation writes to a fresh folder; loading is by a second runner from that folder. GB/s are the weights' bytes
    over the time of a compiled pass, beside what a sum over 1 GiB reads in the same run.
    """
    return [row for name in models for row in _model(name)]


def _model(name: str) -> list[dict[str, Any]]:
    model = bundled()[1] if name == "bundled amateur" else shape(name)
    architecture = inspect_model(model)
    weights = sum(weight.nbytes for weight in {w.data_ptr(): w for w in model.parameters()}.values())
    block = torch.ones(2**28)
    table = []
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        for tokens in (1, 5):
            compiling = _seconds(lambda n=tokens: open_runner(architecture, "compiled", Path(folder)).warm_up([1], [n]))
            ready = open_runner(architecture, "compiled", Path(folder))
            loading = _seconds(lambda n=tokens, r=ready: r.warm_up([1], [n]))
            steps = _STEPS[name]
            cases: dict[str, Callable[[], object]] = {
                "eager": _passes(RaggedModel(architecture), tokens, steps),
                "compiled": _passes(RaggedModel(architecture, ready), tokens, steps),
                "read": block.sum,
            }
            if tokens == 1:
                cases["generate"] = _generate(model, steps)
            seconds = interleaved(cases, rounds=9, warm_up=2)
            compiled = Spread.of([value / steps for value in seconds["compiled"]])
            table.append(
                {
                    "model": name,
                    "dtype": str(model.dtype).removeprefix("torch."),
                    "tokens": tokens,
                    "eager ms": _per_step(seconds["eager"], steps),
                    "compiled ms": _per_step(seconds["compiled"], steps),
                    "generate ms": _per_step(seconds["generate"], steps) if tokens == 1 else "",
                    "eager over compiled": ratio(seconds["eager"], seconds["compiled"]),
                    "generate over compiled": ratio(seconds["generate"], seconds["compiled"]) if tokens == 1 else "",
                    "compiled GB/s": weights / compiled.median / 1e9,
                    "read GB/s": 2**30 / Spread.of(seconds["read"]).median / 1e9,
                    "compile s": compiling,
                    "load s": loading,
                }
            )
    return table


def _passes(model: RaggedModel, tokens: int, steps: int) -> Callable[[], None]:
    """Return a function that runs passes over one row, each forgotten but for one token."""
    model.add_rows(1)
    model.forward([list(range(10, 10 + _PROMPT_TOKENS))])
    block = [list(range(5, 5 + tokens))]

    def case() -> None:
        model.truncate([_PROMPT_TOKENS])
        for step in range(steps):
            model.forward(block, keep=tokens)
            model.truncate([_PROMPT_TOKENS + 1 + step])

    return case


def _generate(model: PreTrainedModel, steps: int) -> Callable[[], object]:
    ids = torch.arange(10, 10 + _PROMPT_TOKENS)[None]
    mask = torch.ones_like(ids)
    return lambda: model.generate(ids, attention_mask=mask, max_new_tokens=steps, do_sample=False)


def _seconds(case: Callable[[], object]) -> float:
    start = time.perf_counter()
    case()
    return time.perf_counter() - start


def _per_step(seconds: list[float], steps: int) -> Spread:
    return Spread.of([value / steps * 1e3 for value in seconds])

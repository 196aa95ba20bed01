"""What verifying drafts costs: a forward pass of several tokens, over that of one."""

import gc
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.shapes import shape
from descant.lab.bench.measure import Spread, interleaved, ratio
from descant.models import LanguageModel, inspect_model, open_model
from descant.models.linears.packing import pack

HELD = 64
"""Tokens that the row holds already."""

TOKENS = (1, 2, 4, 5, 8, 16)
ROUNDS = {"Qwen2.5-0.5B": 15, "Qwen2.5-3B": 9}
TARGETS = {("Qwen2.5-3B", 4): "≤ 1.10", ("Qwen2.5-3B", 8): "≤ 1.25"}


def verification() -> list[dict[str, Any]]:
    """v(n): the time of a forward pass of n new tokens over that of one, with the logits of all n.

    Random weights in bfloat16, packed; one row that holds 64 tokens; it is rolled back after each pass.
    """
    table = []
    for name, rounds in ROUNDS.items():
        network = shape(name)
        pack(network)
        model = open_model(inspect_model(network))
        seconds = _measure(model, rounds)
        table += [
            {
                "model": name,
                "tokens": count,
                "ms": Spread.of([value * 1e3 for value in seconds[str(count)]]),
                "v": ratio(seconds[str(count)], seconds["1"]),
                "target": TARGETS.get((name, count), ""),
            }
            for count in TOKENS
        ]
        del model, network
        gc.collect()  # one model at a time
    return table


@torch.inference_mode()
def _measure(model: LanguageModel, rounds: int) -> dict[str, list[float]]:
    model.add_rows(1)
    model.forward([list(range(100, 100 + HELD))])

    def read(count: int) -> Callable[[], None]:
        def work() -> None:
            model.forward([list(range(count))], keep=count)
            model.truncate([HELD])

        return work

    return interleaved({str(count): read(count) for count in TOKENS}, rounds=rounds)

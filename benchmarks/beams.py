"""What it costs to search: steps of a beam search against greedy steps of as many rows."""

import time
from collections.abc import Callable
from typing import Any

from benchmarks.cases import ROUNDS, run_of
from benchmarks.shapes import bundled, shape
from descant import Beam, Contrastive, Decoder, Greedy, Likelihood
from descant.lab.bench.measure import Spread, in_rounds, ratio
from descant.scoring import Scoring
from descant.strategies import Strategy

WIDTH = 4
STEPS = {"bundled expert": 64, "gpt2": 24}


def beams() -> list[dict[str, Any]]:
    """A step of one prompt's 4 beams against a greedy step of 4 prompts; the prefill is not counted.

    The contrast is that of the bundled pair, with its amateur at every step.
    """
    table = []
    for name, runner in (("bundled expert", "eager"), ("bundled expert", "compiled"), ("gpt2", "eager")):
        steps = STEPS[name]
        expert, amateur, _ = bundled() if name == "bundled expert" else (shape(name), None, None)
        decoder = Decoder(expert, amateur=amateur, runner=runner)
        scorings: dict[str, Scoring] = {"likelihood": Likelihood()}
        if amateur is not None:
            scorings["contrastive"] = Contrastive(selective=False)
        for method, scoring in scorings.items():
            cases = {
                "greedy": steps_of(decoder, scoring, Greedy(), WIDTH, steps),
                "beams": steps_of(decoder, scoring, Beam(WIDTH), 1, steps),
            }
            milliseconds = in_rounds(cases, rounds=ROUNDS[name], warm_up=2)
            table.append(
                {
                    "model": name,
                    "runner": runner,
                    "scoring": method,
                    "greedy ms/step": Spread.of(milliseconds["greedy"]),
                    "beams ms/step": Spread.of(milliseconds["beams"]),
                    "time over greedy": ratio(milliseconds["beams"], milliseconds["greedy"]),
                    "target": "≤ 1.25",
                }
            )
    return table


def steps_of(
    decoder: Decoder, scoring: Scoring, strategy: Strategy, prompts: int, steps: int
) -> Callable[[int], float]:
    """Return a case that decodes and gives the milliseconds of a step."""

    def case(_round: int) -> float:
        run = run_of(decoder, scoring, (), strategy, prompts, new=steps + 1)
        run.engine.add(run.rows)
        run.engine.step()  # the prefill
        start, count = time.perf_counter(), 0
        while run.engine.busy:
            run.engine.step()
            count += 1
        assert count == steps
        return (time.perf_counter() - start) / count * 1e3

    return case

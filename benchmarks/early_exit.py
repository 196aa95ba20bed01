"""What confident exit saves and loses: a step's time at known depths, and answers at each threshold."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.beams import steps_of
from benchmarks.shapes import bundled, shape
from descant import ConfidentExit, Decoder, Greedy, Likelihood
from descant.demo import demo_world, questions
from descant.lab.bench.measure import Spread, in_rounds, ratio

_THRESHOLDS = {"softmax": (0.3, 0.5, 0.8, 0.95), "state": (0.9, 0.95, 0.98)}
_JUDGED = 600
_TIMED = 12
_STEPS = {"gpt2": 16, "Qwen2.5-0.5B": 8}


def early_exit() -> list[dict[str, Any]]:
    """The bundled expert's answers under confident exit, against greedy decoding through all of its 4 layers; eager.

    Correct answers and texts that are the same are counted over 600 of its development questions; layers are the mean
    over new tokens. Times are of answers as they are, to their end, over 12 other questions, one or all at once.
    """
    expert, _, tokenizer = bundled(ends=True)
    asked = questions("dev")
    exits = {"all layers": None} | {
        f"{measure} > {threshold}": ConfidentExit(measure, threshold)  # type: ignore[arg-type]
        for measure, thresholds in _THRESHOLDS.items()
        for threshold in thresholds
    }
    decoders = {name: Decoder(expert, tokenizer, runner="eager", confident_exit=exit_) for name, exit_ in exits.items()}
    prompts = [question.prompt for question in asked[_JUDGED : _JUDGED + _TIMED]]
    single = {name: _per_token(decoder, prompts, rows=1) for name, decoder in decoders.items()}
    batch = {name: _per_token(decoder, prompts, rows=_TIMED) for name, decoder in decoders.items()}
    alone, together = (in_rounds(cases, rounds=9, warm_up=1) for cases in (single, batch))
    world = demo_world()
    plain: list[str] = []
    table = []
    for name, decoder in decoders.items():
        outs = decoder.generate([question.prompt for question in asked[:_JUDGED]], Likelihood(), max_new_tokens=24)
        texts = [out.text for out in outs]
        plain = plain or texts
        layers = [layer for out in outs for layer in out.exit_layers or [4] * len(out.token_ids)]
        right = [world.said(q, text) == q.answer for q, text in zip(asked[:_JUDGED], texts, strict=True)]
        table.append(
            {
                "exit": name,
                "layers": round(sum(layers) / len(layers), 2),
                "correct": round(sum(right) / _JUDGED, 3),
                "same text": round(sum(a == b for a, b in zip(texts, plain, strict=True)) / _JUDGED, 3),
                "ms/token": Spread.of(alone[name]),
                "time over all layers": ratio(alone[name], alone["all layers"]),
                "the same, 12 rows at once": ratio(together[name], together["all layers"]),
            }
        )
    return table


def early_exit_steps() -> list[dict[str, Any]]:
    """A step of greedy decoding that exits after a given layer always, against one through all layers.

    One row, random weights; `never` asks after every layer and exits at none.
    """
    table = []
    for name, steps in _STEPS.items():
        model = shape(name)
        layers = model.config.num_hidden_layers
        exits: dict[str, ConfidentExit | None] = {"all layers": None}
        for measure in _THRESHOLDS:
            for layer in (layers // 4, layers // 2, 3 * layers // 4):
                exits[f"{measure}, after {layer} of {layers}"] = ConfidentExit(measure, 0, [layer])  # type: ignore[arg-type]
            exits[f"{measure}, never"] = ConfidentExit(measure, 1)  # type: ignore[arg-type]
        cases = {
            case: steps_of(Decoder(model, runner="eager", confident_exit=exit_), Likelihood(), Greedy(), 1, steps)
            for case, exit_ in exits.items()
        }
        milliseconds = in_rounds(cases, rounds=5, warm_up=1)
        table += [
            {
                "model": name,
                "dtype": str(model.dtype).removeprefix("torch."),
                "exit": case,
                "ms/step": Spread.of(found),
                "time over all layers": ratio(found, milliseconds["all layers"]),
            }
            for case, found in milliseconds.items()
        ]
    return table


def _per_token(decoder: Decoder, prompts: Sequence[str], *, rows: int) -> Callable[[int], float]:
    """Return a case that answers, so many at once, and gives the milliseconds of a token."""

    def case(_round: int) -> float:
        start, tokens = time.perf_counter(), 0
        for first in range(0, len(prompts), rows):
            outs = decoder.generate(list(prompts[first : first + rows]), Likelihood(), max_new_tokens=24)
            tokens += sum(len(out.token_ids) for out in outs)
        return (time.perf_counter() - start) / tokens * 1e3

    return case

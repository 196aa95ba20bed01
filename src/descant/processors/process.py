"""From scores to the distribution that a token is chosen from."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from descant.numerics.wide import Blocks, divided, is_wide, keep, pick, total_of_few
from descant.processors.base import History, Processor
from descant.processors.temperature import Temperature
from descant.types import Chosen


class Few(NamedTuple):
    """The few tokens that processors leave, by rising id; rows with fewer than others end in scores of −inf."""

    scores: Float[Tensor, "n few"]
    tokens: Int64[Tensor, "n few"]

    def logprobs(self, places: Chosen) -> Float[Tensor, " n"]:
        """Return the log-probability of one token a position, given by its place; NaN where there is none."""
        return self.scores.gather(-1, places[:, None])[:, 0] - total_of_few(self.scores)


def process(
    processors: Sequence[Processor],
    history: History | None,
    scores: Float[Tensor, "n vocab"],
    expert: Float[Tensor, "n vocab"],
) -> Float[Tensor, "n vocab"]:
    """Apply processors in order.

    Where the processors forbid every token that the scoring allows (a repetition ban that hits the only member of the
    plausibility head), the position falls back to the expert's own ranking under the same processors. Where the
    expert has no token left either, all scores are −inf.

    Parameters
    ----------
    processors
        May be empty; then `history` may be None.
    history
        What precedes each position.
    scores
        The scoring's verdict, `[n, vocab]`.
    expert
        The expert's logits, `[n, vocab]`.
    """
    if not processors or history is None:
        return scores
    return _or_expert(apply(processors, history, scores), processors, history, expert)


def process_few(
    processors: Sequence[Processor],
    history: History | None,
    scores: Float[Tensor, "n vocab"],
    expert: Float[Tensor, "n vocab"],
) -> Few | Float[Tensor, "n vocab"]:
    """Do what `process` does, and return only the tokens that are left where they are found to be few.

    That is where the last processor tells which it keeps (see `Processor.kept_places`) and leaves every position some.
    """
    if not processors or history is None or not is_wide(scores):
        return process(processors, history, scores, expert)
    *first, last = processors
    if type(last).kept_places is Processor.kept_places:
        return process(processors, history, scores, expert)
    temperature, before = 1.0, first[-1] if first else None
    if isinstance(before, Temperature):  # dividing what is looked at takes less than dividing all
        temperature, first = before.temperature, first[:-1]
    scores = apply(first, history, scores)
    places = last.kept_places(scores, temperature)
    found = None if places is None else pick(scores, places)
    if found is not None:
        return Few(divided(found[0], temperature), found[1])
    scores = divided(scores, temperature)
    processed = last(history, scores) if places is None else keep(scores, places)
    return _or_expert(processed, processors, history, expert)


def logprobs(scores: Float[Tensor, "n vocab"], ids: Chosen) -> Float[Tensor, " n"]:
    """Return the log-probability of one token a position; NaN where the scores define no distribution."""
    if is_wide(scores):
        return scores.gather(-1, ids[:, None])[:, 0] - Blocks(scores).log_total()
    return scores.log_softmax(-1).gather(-1, ids[:, None])[:, 0]


def _or_expert(
    processed: Float[Tensor, "n vocab"],
    processors: Sequence[Processor],
    history: History,
    expert: Float[Tensor, "n vocab"],
) -> Float[Tensor, "n vocab"]:
    """Return processed scores, and the expert's in place of those that allow nothing."""
    best = Blocks(processed).best() if is_wide(processed) else processed.amax(-1, keepdim=True)
    empty = best == -math.inf
    if bool(empty.any()):
        processed = torch.where(empty, apply(processors, history, expert), processed)
    return processed


def apply(
    processors: Sequence[Processor], history: History, scores: Float[Tensor, "n vocab"]
) -> Float[Tensor, "n vocab"]:
    """Apply processors in order; where they forbid everything, all scores of the position are −inf."""
    for processor in processors:
        scores = processor(history, scores)
    return scores

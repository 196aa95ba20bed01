"""From scores to the distribution that a token is chosen from."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from descant.blocks import Blocks, is_wide
from descant.processors.base import History, Processor
from descant.types import Chosen


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
    processed = _apply(processors, history, scores)
    best = Blocks(processed).best() if is_wide(processed) else processed.amax(-1, keepdim=True)
    empty = best == -math.inf
    if bool(empty.any()):
        processed = torch.where(empty, _apply(processors, history, expert), processed)
    return processed


def logprobs(scores: Float[Tensor, "n vocab"], ids: Chosen) -> Float[Tensor, " n"]:
    """Return the log-probability of one token a position; NaN where the scores define no distribution."""
    if is_wide(scores):
        return scores.gather(-1, ids[:, None])[:, 0] - Blocks(scores).log_total()
    return scores.log_softmax(-1).gather(-1, ids[:, None])[:, 0]


def _apply(
    processors: Sequence[Processor], history: History, scores: Float[Tensor, "n vocab"]
) -> Float[Tensor, "n vocab"]:
    for processor in processors:
        scores = processor(history, scores)
    return scores

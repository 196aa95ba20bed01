"""From scores to the distribution that a token is chosen from."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from descant.blocks import log_total
from descant.processors.base import History, Processor


def process(
    processors: Sequence[Processor],
    history: History | None,
    scores: Float[Tensor, "n vocab"],
    expert: Float[Tensor, "n vocab"],
) -> tuple[Float[Tensor, "n vocab"], Float[Tensor, " n"]]:
    """Apply processors in order; return the scores and the logarithms of their total weights.

    Where the processors forbid every token that the scoring allows (a repetition ban that hits the only member of the
    plausibility head), the position falls back to the expert's own ranking under the same processors.

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

    Returns
    -------
    Scores `[n, vocab]`, and `log Σ exp(scores)` `[n]`: a score less that is a log-probability. It is NaN at a position
    where even the expert has no token left, or where a score is not a number.
    """

    def apply(values: Float[Tensor, "n vocab"]) -> Float[Tensor, "n vocab"]:
        if history is not None:
            for processor in processors:
                values = processor(history, values)
        return values

    processed = apply(scores)
    total = log_total(processed)
    if processors and any(map(math.isnan, total.tolist())):
        empty = processed.amax(-1, keepdim=True) == -math.inf
        processed = torch.where(empty, apply(expert), processed)
        total = log_total(processed)
    return processed, total

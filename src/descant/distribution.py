"""From scores to the distribution that a token is chosen from."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from descant.processors.base import History, Processor


def process(
    processors: Sequence[Processor],
    history: History | None,
    scores: Float[Tensor, "n vocab"],
    expert: Float[Tensor, "n vocab"],
) -> tuple[Float[Tensor, "n vocab"], Float[Tensor, "n vocab"]]:
    """Apply processors in order; return the scores and their log-probabilities.

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
    Scores and log-probabilities `[n, vocab]`. The latter are NaN throughout a position where even the expert has no
    token left, or where a score is not a number.
    """

    def apply(values: Float[Tensor, "n vocab"]) -> Float[Tensor, "n vocab"]:
        if history is not None:
            for processor in processors:
                values = processor(history, values)
        return values

    processed = apply(scores)
    logprobs = processed.log_softmax(-1)
    # The softmax of a position without any finite score is NaN throughout, so one entry tells.
    if processors and any(map(math.isnan, logprobs[:, 0].tolist())):
        empty = processed.amax(-1, keepdim=True) == -math.inf
        processed = torch.where(empty, apply(expert), processed)
        logprobs = processed.log_softmax(-1)
    return processed, logprobs

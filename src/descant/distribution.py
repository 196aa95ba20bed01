"""From scores to the distribution that a token is chosen from."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from descant.processors.base import History, Processor

_CACHED_SCORES = 1 << 18


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
    total = _log_total(processed)
    if processors and any(map(math.isnan, total.tolist())):
        empty = processed.amax(-1, keepdim=True) == -math.inf
        processed = torch.where(empty, apply(expert), processed)
        total = _log_total(processed)
    return processed, total


def _log_total(scores: Float[Tensor, "n vocab"]) -> Float[Tensor, " n"]:
    """Return `log Σ exp(scores)` of each position; NaN where no score is finite.

    `torch.logsumexp` takes ten times as long where most scores are −inf, as contrastive ones are; a softmax does not.
    That of all rows at once would spend most of its time on memory for the result: parts that fit a CPU's cache do not.
    """
    at_once = max(1, _CACHED_SCORES // scores.shape[-1]) if scores.device.type == "cpu" else len(scores)
    totals = []
    for part in scores.split(at_once):
        totals.append(part.amax(-1) - part.log_softmax(-1).amax(-1))
    return torch.cat(totals)

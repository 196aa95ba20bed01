"""What several contrasts share: entropy, divergence, and going beyond the expert, away from another source."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from descant.types import Logits

IMPOSSIBLE = -1e4
"""The log-probability of a token to which a source that is subtracted gives none.

Lower than finite logits lead to in practice, so that such a token beats every other of the head, as the
formula has it; and near enough to 0 that the expert still decides between two of them, in float32 and after
division by a small temperature too.
"""


def floored(logits: Logits) -> Logits:
    """Return logits of which none lies more than 10⁴ below its position's greatest, so that they can be subtracted."""
    return torch.maximum(logits, logits.amax(-1, keepdim=True) + IMPOSSIBLE)


def extrapolate(expert: Logits, other: Logits, weight: float | Float[Tensor, "*positions 1"]) -> Logits:
    """Return `other + weight · (expert − other)`; what the expert forbids stays forbidden.

    Parameters
    ----------
    expert, other
        Logits or log-probabilities `[..., vocab]`.
    weight
        0 is the other source, 1 the expert, and more lies beyond the expert.
    """
    other = floored(other)
    beyond: Logits = other + weight * (expert - other)
    return torch.where(expert == -math.inf, expert, beyond)


def entropy(logits: Logits) -> Float[Tensor, "*positions 1"]:
    """Return the entropy of `softmax(logits)` in nats, `[..., 1]`."""
    terms: Tensor = torch.special.entr(logits.softmax(-1))
    return terms.sum(-1, keepdim=True)


def jensen_shannon(one: Logits, other: Logits) -> Float[Tensor, "*positions 1"]:
    """Return the Jensen–Shannon divergence of two distributions in nats, `[..., 1]`: `½ KL(p ‖ m) + ½ KL(q ‖ m)`,
    where m = (p + q) / 2."""
    p, q, m = mixture(one, other)
    return ((p.exp() * (p - m)).sum(-1, keepdim=True) + (q.exp() * (q - m)).sum(-1, keepdim=True)) / 2


def mixture(one: Logits, other: Logits) -> tuple[Logits, Logits, Logits]:
    """Return the log-probabilities of two distributions and of their even mixture, all finite."""
    least = torch.finfo(one.dtype).min / 4  # a probability of 0, whose logarithm can be multiplied by 0
    p, q = one.log_softmax(-1).clamp(min=least), other.log_softmax(-1).clamp(min=least)
    return p, q, torch.logaddexp(p, q) - math.log(2)

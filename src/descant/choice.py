"""Taking tokens from scores: the best, a random one, the most probable ones, and what they weigh."""

import hashlib
from collections.abc import Sequence

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from descant.types import Chosen

_WORD = 1 << 32


def argmax(scores: Float[Tensor, "n vocab"]) -> Chosen:
    """Return the token with each row's highest score, and the lowest id of equal ones."""
    return scores.max(-1).indices  # finds the same as `argmax`, three times as fast on a CPU


def log_probability(scores: Float[Tensor, "n vocab"], ids: Int64[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Return `log softmax(scores)` of one token a row; −inf where the scores forbid it."""
    return scores.gather(-1, ids[:, None])[:, 0] - scores.logsumexp(-1)


def top(
    scores: Float[Tensor, "n vocab"], k: int
) -> tuple[Int64[Tensor, "n k_or_vocab"], Float[Tensor, "n k_or_vocab"]]:
    """Return the k most probable tokens and their log-probabilities, best first, equals in order of id.

    Parameters
    ----------
    scores
        `[n, vocab]`.
    k
        How many; at most the whole vocabulary is returned. Tokens that the scores forbid are listed last, at
        −inf, where there are not enough others.
    """
    k = min(k, scores.shape[-1])
    ids = torch.empty(len(scores), k, dtype=torch.int64, device=scores.device)
    for row, edge in enumerate(scores.topk(k, dim=-1).values[:, -1:] if k else ()):
        # topk alone would return any of the tokens that tie at the edge, in any order.
        listed = (scores[row] >= edge).nonzero()[:, 0]
        order = scores[row, listed].sort(descending=True, stable=True).indices[:k]
        ids[row] = listed[order]
    return ids, scores.gather(-1, ids) - scores.logsumexp(-1, keepdim=True)


def categorical(scores: Float[Tensor, "n vocab"], uniforms: Float64[Tensor, " n"]) -> Chosen:
    """Draw one token a row from `softmax(scores)` by the inverse of its cumulative distribution, in float64.

    Parameters
    ----------
    scores
        `[n, vocab]`; each row has a token above −inf.
    uniforms
        `[n]`: one number in [0, 1) a row, on the device of the scores.

    Returns
    -------
    Token ids `[n]`, never one of probability 0.
    """
    probs = scores.double().softmax(-1)
    cumulative = probs.cumsum(-1)
    # Against the last sum, not 1: rounding may leave the sum of all probabilities on either side of it.
    wanted = uniforms[:, None] * cumulative[:, -1:]
    # A parallel sum may rise a little between two tokens though the second has no probability: hence both
    # conditions.
    passed = (cumulative > wanted) & (probs > 0)
    first = passed.to(torch.uint8).max(-1).indices
    # Nothing lies above the whole sum, which a uniform next to 1 may round to: take the last possible token.
    last = scores.shape[-1] - 1 - (probs > 0).to(torch.uint8).flip(-1).max(-1).indices
    return torch.where(passed.any(-1), first, last)


def row_generator(seed: int, index: int) -> torch.Generator:
    """Return the generator of one row of a call, on the CPU.

    Parameters
    ----------
    seed
        Of the call; any integer.
    index
        The row's place in the call, from 0.

    Returns
    -------
    A generator that depends on nothing else. Rows of one call never share a stream (for 2³² rows); two calls
    with different seeds share one for a pair of rows with probability 2⁻³².
    """
    # torch's generator makes its state of the seed's lower 32 bits alone, so hashing (seed, index) would let
    # two rows of a large call collide. Instead the seed picks a permutation of the 32-bit words, and the
    # index goes through it.
    digest = hashlib.blake2b(str(seed).encode(), digest_size=16).digest()
    keys = [int.from_bytes(digest[i : i + 4], "little") for i in range(0, 16, 4)]
    word = index % _WORD
    for key in keys:
        word ^= key
        word ^= word >> 16
        word = word * 0x7FEB352D % _WORD  # an odd factor: each step can be undone, so no two words meet
        word ^= word >> 15
    return torch.Generator().manual_seed(word)


def multinomial_like_transformers(
    scores: Float[Tensor, "n vocab"], batch_rows: Sequence[int], batch_size: int
) -> Chosen:
    """Draw one token a row as `model.generate` does, from torch's global generator.

    transformers draws for all rows of the call at every step, finished ones too. What a row gets depends on
    the generator's state, its place in the batch and its own probabilities, so that the others may be
    replaced.

    Parameters
    ----------
    scores
        `[n, vocab]`: of the rows that are still decoded.
    batch_rows
        Their places in the call.
    batch_size
        Rows in the call, finished ones included.
    """
    places = torch.tensor(batch_rows, dtype=torch.int64, device=scores.device)
    probs = torch.ones(batch_size, scores.shape[-1], dtype=torch.float32, device=scores.device)
    probs[places] = scores.float().softmax(-1)
    return torch.multinomial(probs, num_samples=1)[places, 0]

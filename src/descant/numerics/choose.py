"""Taking tokens from scores: the best, a random one, the most probable ones, and what they weigh."""

import hashlib
from collections.abc import Sequence

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from descant.numerics.wide import Blocks, in_parts, is_wide
from descant.types import Chosen

_WORD = 1 << 32


def argmax(scores: Float[Tensor, "n vocab"]) -> Chosen:
    """Return the token with each row's highest score, and the lowest id of equal ones."""
    if is_wide(scores):
        return Blocks(scores).argmax()
    return scores.max(-1).indices  # finds the same as `argmax`, three times as fast on a CPU


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
    if k == 1:
        ids = argmax(scores)[:, None]
        return ids, scores.log_softmax(-1).gather(-1, ids)
    k = min(k, scores.shape[-1])
    ids = torch.empty(len(scores), k, dtype=torch.int64, device=scores.device)
    for row, edge in enumerate(scores.topk(k, dim=-1).values[:, -1:] if k else ()):
        # topk alone would return any of the tokens that tie at the edge, in any order.
        listed = (scores[row] >= edge).nonzero()[:, 0]
        order = scores[row, listed].sort(descending=True, stable=True).indices[:k]
        ids[row] = listed[order]
    return ids, scores.log_softmax(-1).gather(-1, ids)


def categorical(scores: Float[Tensor, "n vocab"], uniforms: Float64[Tensor, " n"]) -> Chosen:
    """Draw one token a row from `softmax(scores)` by the inverse of its cumulative distribution.

    Parameters
    ----------
    scores
        `[n, vocab]`; each row has a token above −inf.
    uniforms
        `[n]`: one number in [0, 1) a row, on the device of the scores.

    Returns
    -------
    Token ids `[n]`, never one of probability 0. The distribution is summed in float64.
    """
    found = Blocks(scores).allowed() if is_wide(scores) else None
    if found is not None:
        allowed, tokens = found
        return tokens.gather(-1, _draw(allowed, uniforms)[:, None])[:, 0]
    return torch.cat([_draw(scores[part], uniforms[part]) for part in in_parts(scores)])


def _draw(scores: Float[Tensor, "n vocab"], uniforms: Float64[Tensor, " n"]) -> Chosen:
    # Weights one by one and a running sum: tokens that are left out because they are forbidden change no bit.
    weights = (scores.double() - scores.amax(-1, keepdim=True)).exp_()
    cumulative = weights.cumsum(-1)
    wanted = uniforms[:, None] * cumulative[:, -1:]
    ids = torch.searchsorted(cumulative, wanted, right=True)[:, 0].clamp(max=scores.shape[-1] - 1)
    # Rounding can lead to a token without probability: past the end for a uniform next to 1, or where an
    # accelerator's parallel sum rises a little between two tokens. No draw of a lifetime is such a one.
    possible = weights.gather(-1, ids[:, None])[:, 0] > 0
    return torch.where(possible, ids, scores.max(-1).indices)


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

"""Truncations that put the tokens into an order and keep them until a probability mass is reached.

Each keeps what transformers' warper of the same name keeps, to the last bit: the arithmetic is theirs, in the
same precision, and so is the sort, which is not stable: which of two equal scores comes first is torch's
choice, and half-precision models have many equal scores.

Sorting 150,000 tokens costs 10 ms a row on a CPU, as much as a small model's forward pass. So a shortlist of
the first tokens is tried before: if the mass is reached within it, and nowhere near a token's edge, the full
order would cut at the same token whatever its rounding, and the result is the same. All other rows are
sorted.
"""

import math
from abc import abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from descant.checks import kept, number
from descant.processors.base import History, Processor

_BLOCK = 64
"""Tokens whose maximum stands for all of them while the shortlist is found."""

_SHORTLIST = 512
"""The least number of tokens on the shortlist, where so many are allowed."""

_SORTED_AT_ONCE = 4096
"""Vocabularies below this are sorted: a shortlist would take as long."""

_DOUBT = {torch.float32: 1e-4, torch.float64: 1e-9}
"""How near to the wanted mass a shortlist's sums may not come, by dtype.

The largest error of a sum over 152,064 sorted tokens, over normal, Zipf, uniform and tied distributions, was
3e-5 in float32 (a uniform tail under one peak; below 2e-6 for all others) and 4e-12 in float64.
"""


class _MassTruncation(Processor):
    """What both truncations share: which rows the shortlist decides, and which are sorted."""

    def __call__(self, history: History, scores: Float[Tensor, "n vocab"]) -> Float[Tensor, "n vocab"]:
        del history
        # An accelerator sorts fast, and asking it which rows are in doubt would make it wait.
        if scores.device.type != "cpu" or scores.shape[1] < _SORTED_AT_ONCE or len(scores) == 0:
            removed = self._by_sorting(scores)
        else:
            # Row by row the temporaries stay in the processor's cache: twice as fast as all rows at once.
            removed = torch.cat([self._row(scores[i : i + 1]) for i in range(len(scores))])
        return scores.masked_fill(removed, -math.inf)

    def _row(self, scores: Float[Tensor, "1 vocab"]) -> Bool[Tensor, "1 vocab"]:
        removed = self._by_shortlist(scores, _DOUBT.get(scores.dtype, math.inf))
        return self._by_sorting(scores) if removed is None else removed

    @abstractmethod
    def _by_sorting(self, scores: Float[Tensor, "n vocab"]) -> Bool[Tensor, "n vocab"]:
        """Return which tokens to remove, from their full order."""

    @abstractmethod
    def _by_shortlist(self, scores: Float[Tensor, "1 vocab"], doubt: float) -> Bool[Tensor, "1 vocab"] | None:
        """Return which tokens to remove, from the first of them in order, or None if that is in doubt."""


@dataclass(frozen=True)
class TopP(_MassTruncation):
    """Keep the most probable tokens until their probabilities sum to p.

    Holtzman et al. 2019, "The Curious Case of Neural Text Degeneration" (arXiv 1904.09751).

    Parameters
    ----------
    p
        In [0, 1]; 0 keeps the best token alone.
    min_tokens_to_keep
        Keep at least so many.
    """

    p: float
    min_tokens_to_keep: int = 1

    def __post_init__(self) -> None:
        p = number("TopP.p", self.p, lambda x: 0 <= x <= 1, "use a number from 0 to 1")
        object.__setattr__(self, "p", p)
        object.__setattr__(self, "min_tokens_to_keep", kept("TopP", self.min_tokens_to_keep))

    def _by_sorting(self, scores: Float[Tensor, "n vocab"]) -> Bool[Tensor, "n vocab"]:
        ascending, ids = scores.sort(-1)
        removed = ascending.softmax(-1).cumsum(-1) <= 1 - self.p
        removed[:, -self.min_tokens_to_keep :] = False
        return removed.scatter(-1, ids, removed)

    def _by_shortlist(self, scores: Float[Tensor, "1 vocab"], doubt: float) -> Bool[Tensor, "1 vocab"] | None:
        best, ids = _shortlist(scores)
        probs = scores.softmax(-1).gather(-1, ids).double()
        before = probs.cumsum(-1) - probs  # the mass of all tokens that are better
        cut = max(int((before < self.p).sum()), self.min_tokens_to_keep)
        in_doubt = bool(((before - self.p).abs() <= doubt)[:, self.min_tokens_to_keep :].any())
        # Two equal scores astride the cut are told apart by their place in the full order alone.
        if in_doubt or cut >= ids.shape[1] or bool(best[0, cut - 1] == best[0, cut]):
            return None
        return scores < best[:, cut - 1 : cut]


@dataclass(frozen=True)
class Typical(_MassTruncation):
    """Keep the tokens whose surprise is nearest to the entropy, `|−log p(x) − H|`, until a mass is reached.

    Meister et al. 2022, "Locally Typical Sampling" (arXiv 2202.00666).

    Parameters
    ----------
    mass
        In (0, 1); the paper uses 0.2 and 0.95.
    min_tokens_to_keep
        Keep at least so many.
    """

    mass: float
    min_tokens_to_keep: int = 1

    def __post_init__(self) -> None:
        mass = number("Typical.mass", self.mass, lambda x: 0 < x < 1, "use a number between 0 and 1, such as 0.95")
        object.__setattr__(self, "mass", mass)
        object.__setattr__(self, "min_tokens_to_keep", kept("Typical", self.min_tokens_to_keep))

    def _by_sorting(self, scores: Float[Tensor, "n vocab"]) -> Bool[Tensor, "n vocab"]:
        distance, ids = _atypicality(scores).sort(-1)
        mass = scores.gather(-1, ids).softmax(-1).cumsum(-1)
        last = (mass < self.mass).sum(-1, keepdim=True).clamp(max=scores.shape[-1] - 1)
        removed = distance > distance.gather(-1, last)
        removed[:, : self.min_tokens_to_keep] = False
        return removed.scatter(-1, ids, removed)

    def _by_shortlist(self, scores: Float[Tensor, "1 vocab"], doubt: float) -> Bool[Tensor, "1 vocab"] | None:
        if self.min_tokens_to_keep > 1:
            return None
        distance = _atypicality(scores)
        nearness, ids = _shortlist(-distance)
        mass = scores.softmax(-1).gather(-1, ids).double().cumsum(-1)
        last = int((mass < self.mass).sum())
        # Tokens at equal distances are removed together, so that their order does not matter.
        if bool(((mass - self.mass).abs() <= doubt).any()) or last >= ids.shape[1]:
            return None
        return distance > -nearness[:, last : last + 1]


def _shortlist(values: Float[Tensor, "1 vocab"]) -> tuple[Float[Tensor, "1 short"], Int64[Tensor, "1 short"]]:
    """Return the greatest values in order, and whose they are: all down to some value, and no other.

    `topk` takes six times as long for so many. Here the blocks with the greatest maxima are looked at: whatever reaches
    the least of these maxima stands in one of them, or in what is left over at the end of the vocabulary.
    """
    whole = values.shape[1] // _BLOCK * _BLOCK
    maxima = values[0, :whole].view(-1, _BLOCK).amax(-1)
    least = maxima.topk(min(_SHORTLIST, len(maxima))).values[-1]
    blocks = (maxima >= least).nonzero() * _BLOCK
    ids = torch.cat([(blocks + torch.arange(_BLOCK)).flatten(), torch.arange(whole, values.shape[1])])
    found = values[0, ids]
    # Where few are allowed, all of them are listed, and one that is not, as what comes after them.
    ids = torch.cat([ids[found > least], ids[found == least][:1]]) if least == -math.inf else ids[found >= least]
    best, order = values[0, ids].sort(descending=True, stable=True)
    return best[None], ids[order][None]


def _atypicality(scores: Float[Tensor, "n vocab"]) -> Float[Tensor, "n vocab"]:
    """Return `|−log p(x) − H|`; +inf where the score is −inf."""
    log_probs = scores.log_softmax(-1)
    entropy = -(log_probs * log_probs.exp()).nansum(-1, keepdim=True)
    return (-log_probs - entropy).abs()

"""Truncations that put the tokens into an order and keep them until a probability mass is reached.

Each keeps what transformers' warper of the same name keeps, to the last bit: the arithmetic is theirs, in the
same precision, and so is the order of equal scores, of which half-precision models have many.

Sorting 150,000 tokens costs 10 ms a row on a CPU, as much as a small model's forward pass. So a shortlist of
the first tokens is tried before: if the mass is reached within it, and nowhere near a token's edge, the full
order would cut at the same token whatever its rounding, and the result is the same. All other rows are
sorted.
"""

import math
from abc import abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from descant.blocks import Blocks, in_parts, is_wide, log_total
from descant.checks import kept, number
from descant.processors.base import History, Processor
from descant.processors.introsort import is_torchs_order, last_in_order

_SHORTLISTS = (64, 512)
"""Lengths of shortlists to try, in turn."""

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
        if not is_wide(scores) or scores.dtype not in _DOUBT:
            return scores.masked_fill(self._by_sorting(scores), -math.inf)
        kept, decided = self._by_shortlist(scores)
        for rows in (~decided).nonzero()[:, 0].split(torch.get_num_threads()):
            kept[rows] = scores[rows].masked_fill(self._by_sorting(scores[rows]), -math.inf)
        return kept

    @abstractmethod
    def _by_sorting(self, scores: Float[Tensor, "n vocab"]) -> Bool[Tensor, "n vocab"]:
        """Return which tokens to remove, from their full order."""

    @abstractmethod
    def _by_shortlist(self, scores: Float[Tensor, "n vocab"]) -> tuple[Float[Tensor, "n vocab"], Bool[Tensor, " n"]]:
        """Return the new scores, and for which rows they are right beyond doubt."""


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

    def _by_shortlist(self, scores: Float[Tensor, "n vocab"]) -> tuple[Float[Tensor, "n vocab"], Bool[Tensor, " n"]]:
        blocks = Blocks(scores)
        total = blocks.log_total()[:, None].double()
        for length in _SHORTLISTS:
            best = blocks.top(length)[0]
            probs = (best.double() - total).exp()
            before = probs.cumsum(-1) - probs  # the mass of all tokens that are better
            cut = (before < self.p).sum(-1, keepdim=True).clamp(min=self.min_tokens_to_keep)
            ends = (cut < best.shape[1])[:, 0]
            if bool(ends.all()):
                break
        clear = (before - self.p).abs() > _DOUBT[scores.dtype]
        decided = ends & clear[:, self.min_tokens_to_keep :].all(-1)
        last = best.gather(-1, (cut - 1).clamp(max=best.shape[1] - 1))
        kept = blocks.keep_from(last.masked_fill(~decided[:, None], math.inf))
        tied = decided & (last == best.gather(-1, cut.clamp(max=best.shape[1] - 1)))[:, 0]
        for row in tied.nonzero()[:, 0].tolist():
            decided[row] = _cut_between_equals(kept[row], scores[row], int(cut[row]))
        return kept, decided


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

    def _by_shortlist(self, scores: Float[Tensor, "n vocab"]) -> tuple[Float[Tensor, "n vocab"], Bool[Tensor, " n"]]:
        if self.min_tokens_to_keep > 1:
            return scores.clone(), torch.zeros(len(scores), dtype=torch.bool)
        parts = [self._part_by_shortlist(scores[part]) for part in in_parts(scores)]
        return torch.cat([kept for kept, _ in parts]), torch.cat([decided for _, decided in parts])

    def _part_by_shortlist(
        self, scores: Float[Tensor, "n vocab"]
    ) -> tuple[Float[Tensor, "n vocab"], Bool[Tensor, " n"]]:
        distance, total = _atypicality(scores), log_total(scores)[:, None].double()
        blocks = Blocks(-distance)
        for length in _SHORTLISTS:
            nearness, ids = blocks.top(length)
            mass = (scores.gather(-1, ids).double() - total).exp().cumsum(-1)
            last = (mass < self.mass).sum(-1, keepdim=True)
            ends = (last < ids.shape[1])[:, 0]
            if bool(ends.all()):
                break
        decided = ends & ((mass - self.mass).abs() > _DOUBT[scores.dtype]).all(-1)
        # Tokens at equal distances are removed together, so that their order does not matter.
        farthest = -nearness.gather(-1, last.clamp(max=ids.shape[1] - 1))
        return scores.masked_fill(distance > farthest, -math.inf), decided


def _cut_between_equals(kept: Float[Tensor, " vocab"], scores: Float[Tensor, " vocab"], count: int) -> bool:
    """Keep, in place, the tokens that torch's order of a row ends with; return False if that takes a sort."""
    tokens = last_in_order(scores, count) if is_torchs_order(scores.dtype) else None
    if tokens is None:
        return False
    kept.fill_(-math.inf)
    kept[tokens] = scores[tokens]
    return True


def _atypicality(scores: Float[Tensor, "n vocab"]) -> Float[Tensor, "n vocab"]:
    """Return `|−log p(x) − H|`; +inf where the score is −inf."""
    log_probs = scores.log_softmax(-1)
    entropy = -(log_probs * log_probs.exp()).nansum(-1, keepdim=True)
    return (-log_probs - entropy).abs()

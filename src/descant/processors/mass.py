"""Truncations that put the tokens into an order and keep them until a probability mass is reached.

Each keeps what transformers' warper of the same name keeps, to the last bit: the arithmetic is theirs, in the
same precision, and so is the order of equal scores, of which half-precision models have many.

Sorting 150,000 tokens costs 10 ms a row on a CPU, as much as a small model's forward pass. So a shortlist of
the first tokens is tried before: if the mass is reached within it, and nowhere near a token's edge, the full
order would cut at the same token whatever its rounding, and the result is the same. All other rows are
sorted.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from descant.checks import kept, number
from descant.numerics.wide import Blocks, divided, in_parts, is_wide, keep, log_total
from descant.options import option
from descant.processors.base import History, Processor

_SHORTLISTS = (64, 512)
"""Lengths of shortlists to try, in turn."""

_DOUBT = {torch.float32: 1e-4, torch.float64: 1e-9}
"""How near to the wanted mass a shortlist's sums may not come, by dtype.

The largest error of a sum over 152,064 sorted tokens, over normal, Zipf, uniform and tied distributions, was
3e-5 in float32 (a uniform tail under one peak; below 2e-6 for all others) and 4e-12 in float64.
"""


@dataclass(frozen=True)
class TopP(Processor):
    """Keep the most probable tokens until their probabilities sum to p.

    Holtzman et al. 2019, "The Curious Case of Neural Text Degeneration" (arXiv 1904.09751).

    Parameters
    ----------
    p
        In [0, 1]; 0 keeps the best token alone.
    min_tokens_to_keep
        Keep at least so many.
    """

    rank = 3
    of_transformers = "top_p"
    shift_invariant = True
    capturable = True

    p: float = option("top_p", "Keep the smallest set of mass X.")
    min_tokens_to_keep: int = 1

    def __post_init__(self) -> None:
        p = number("TopP.p", self.p, lambda x: 0 <= x <= 1, "use a number from 0 to 1")
        object.__setattr__(self, "p", p)
        object.__setattr__(self, "min_tokens_to_keep", kept("TopP", self.min_tokens_to_keep))

    def __call__(self, history: History, scores: Float[Tensor, "n vocab"]) -> Float[Tensor, "n vocab"]:
        del history
        places = self.kept_places(scores)
        return scores.masked_fill(self._removed(scores), -math.inf) if places is None else keep(scores, places)

    def _removed(self, scores: Float[Tensor, "n vocab"]) -> Bool[Tensor, "n vocab"]:
        ascending, ids = scores.sort(-1)
        removed = ascending.softmax(-1).cumsum(-1) <= 1 - self.p
        removed[:, -self.min_tokens_to_keep :].fill_(False)
        return removed.scatter(-1, ids, removed)

    def kept_places(
        self, scores: Float[Tensor, "n vocab"], temperature: float = 1.0
    ) -> Int64[Tensor, " places"] | None:
        if not _has_shortlists(scores):
            return None
        first = torch.arange(len(scores))[:, None] * scores.shape[1]
        ids, cut, decided = self._by_shortlist(Blocks(scores, temperature))
        listed = (torch.arange(ids.shape[1]) < cut) & decided[:, None]
        places = [(first + ids)[listed]]
        for rows in (~decided).nonzero()[:, 0].split(torch.get_num_threads()):
            row, token = (~self._removed(divided(scores[rows], temperature))).nonzero(as_tuple=True)
            places.append(first[rows[row], 0] + token)
        return torch.cat(places)

    def _by_shortlist(self, blocks: Blocks) -> tuple[Int64[Tensor, "n few"], Int64[Tensor, "n 1"], Bool[Tensor, " n"]]:
        """Return the best tokens, best first, how many of them are kept, and for which rows that is beyond doubt.

        Where the cut falls between equal scores, which of them are kept is the sort's choice.
        """
        total = blocks.log_total()[:, None].double()
        for length in _SHORTLISTS:
            best, ids = blocks.top(length)
            probs = (best.double() - total).exp()
            before = probs.cumsum(-1) - probs  # the mass of all tokens that are better
            cut = (before < self.p).sum(-1, keepdim=True).clamp(min=self.min_tokens_to_keep)
            ends = (cut < best.shape[1])[:, 0]
            if bool(ends.all()):
                break
        clear = (before - self.p).abs() > _DOUBT[best.dtype]
        decided = ends & clear[:, self.min_tokens_to_keep :].all(-1)
        edge = cut.clamp(max=best.shape[1] - 1)
        tied = (best.gather(-1, edge) == best.gather(-1, edge - 1))[:, 0]
        return ids, cut, decided & ~tied


@dataclass(frozen=True)
class Typical(Processor):
    """Keep the tokens whose surprise is nearest to the entropy, `|−log p(x) − H|`, until a mass is reached.

    Meister et al. 2022, "Locally Typical Sampling" (arXiv 2202.00666).

    Parameters
    ----------
    mass
        In (0, 1); the paper uses 0.2 and 0.95.
    min_tokens_to_keep
        Keep at least so many.
    """

    rank = 5
    of_transformers = "typical_p"
    shift_invariant = True
    capturable = True

    mass: float = option("typical_p", "Keep the most typical, of mass X.")
    min_tokens_to_keep: int = 1

    def __post_init__(self) -> None:
        mass = number("Typical.mass", self.mass, lambda x: 0 < x < 1, "use a number between 0 and 1, such as 0.95")
        object.__setattr__(self, "mass", mass)
        object.__setattr__(self, "min_tokens_to_keep", kept("Typical", self.min_tokens_to_keep))

    def __call__(self, history: History, scores: Float[Tensor, "n vocab"]) -> Float[Tensor, "n vocab"]:
        del history
        if not _has_shortlists(scores) or self.min_tokens_to_keep > 1:
            return scores.masked_fill(self._removed(scores), -math.inf)
        parts = [self._by_shortlist(scores[part]) for part in in_parts(scores)]
        kept, decided = (torch.cat(list(results)) for results in zip(*parts, strict=True))
        for rows in (~decided).nonzero()[:, 0].split(torch.get_num_threads()):
            kept[rows] = scores[rows].masked_fill(self._removed(scores[rows]), -math.inf)
        return kept

    def _removed(self, scores: Float[Tensor, "n vocab"]) -> Bool[Tensor, "n vocab"]:
        distance, ids = _atypicality(scores).sort(-1)
        mass = scores.gather(-1, ids).softmax(-1).cumsum(-1)
        last = (mass < self.mass).sum(-1, keepdim=True).clamp(max=scores.shape[-1] - 1)
        removed = distance > distance.gather(-1, last)
        removed[:, : self.min_tokens_to_keep].fill_(False)
        return removed.scatter(-1, ids, removed)

    def _by_shortlist(self, scores: Float[Tensor, "n vocab"]) -> tuple[Float[Tensor, "n vocab"], Bool[Tensor, " n"]]:
        """Return the new scores, and for which rows they are right beyond doubt."""
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


def _has_shortlists(scores: Float[Tensor, "n vocab"]) -> bool:
    # An accelerator sorts fast, and asking it which rows are in doubt would make it wait.
    return is_wide(scores) and scores.dtype in _DOUBT


def _atypicality(scores: Float[Tensor, "n vocab"]) -> Float[Tensor, "n vocab"]:
    """Return `|−log p(x) − H|`; +inf where the score is −inf."""
    log_probs = scores.log_softmax(-1)
    entropy = -(log_probs * log_probs.exp()).nansum(-1, keepdim=True)
    return (-log_probs - entropy).abs()

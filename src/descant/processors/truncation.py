"""Truncations that compare each token with a threshold.

Each keeps what transformers' warper of the same name keeps, to the last bit: the arithmetic is theirs, in the
same precision, and ties at a threshold stay.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from descant.checks import kept, number, whole
from descant.numerics.wide import Blocks, is_wide
from descant.options import option
from descant.processors.base import History, Processor


@dataclass(frozen=True)
class TopK(Processor):
    """Keep the k best tokens, and those that tie with the last of them.

    Fan et al. 2018, "Hierarchical Neural Story Generation" (arXiv 1805.04833).

    Parameters
    ----------
    k
        At least 1.
    min_tokens_to_keep
        Keep at least so many.
    """

    rank = 2
    of_transformers = "top_k"
    shift_invariant = True
    capturable = True

    k: int = option("top_k", "Keep the N best tokens.", of="N")
    min_tokens_to_keep: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "k", whole("TopK.k", self.k, 1, "use a whole number from 1"))
        object.__setattr__(self, "min_tokens_to_keep", kept("TopK", self.min_tokens_to_keep))

    def __call__(self, history: History, scores: Float[Tensor, "n vocab"]) -> Float[Tensor, "n vocab"]:
        del history
        if is_wide(scores):
            blocks = Blocks(scores)
            return blocks.keep_from(self._edge(blocks))
        return scores.masked_fill(scores < _best(scores, self._count), -math.inf)

    def kept_places(
        self, scores: Float[Tensor, "n vocab"], temperature: float = 1.0
    ) -> Int64[Tensor, " places"] | None:
        if not is_wide(scores):
            return None
        blocks = Blocks(scores, temperature)
        places = blocks.places_from(self._edge(blocks).clamp(min=torch.finfo(scores.dtype).min))
        return None if places is None else places.unique()

    @property
    def _count(self) -> int:
        return max(self.k, self.min_tokens_to_keep)

    def _edge(self, blocks: Blocks) -> Float[Tensor, "n 1"]:
        return blocks.top(self._count)[0][:, -1:]


@dataclass(frozen=True)
class MinP(Processor):
    """Keep the tokens whose probability is at least p times that of the best.

    Nguyen et al. 2024, "Turning Up the Heat: Min-p Sampling" (arXiv 2407.01082).

    Parameters
    ----------
    p
        In [0, 1].
    min_tokens_to_keep
        Keep at least so many.
    """

    rank = 4
    of_transformers = "min_p"
    shift_invariant = True
    capturable = True

    p: float = option("min_p", "Keep tokens at least X times as probable as the best.")
    min_tokens_to_keep: int = 1

    def __post_init__(self) -> None:
        p = number("MinP.p", self.p, lambda x: 0 <= x <= 1, "use a number from 0 to 1")
        object.__setattr__(self, "p", p)
        object.__setattr__(self, "min_tokens_to_keep", kept("MinP", self.min_tokens_to_keep))

    def __call__(self, history: History, scores: Float[Tensor, "n vocab"]) -> Float[Tensor, "n vocab"]:
        del history
        probs = scores.softmax(-1)
        removed = probs < self.p * probs.amax(-1, keepdim=True)
        if self.min_tokens_to_keep > 1:
            best = probs.topk(min(self.min_tokens_to_keep, probs.shape[-1]), dim=-1).indices
            removed = removed.scatter(-1, best, False)
        return scores.masked_fill(removed, -math.inf)


@dataclass(frozen=True)
class Epsilon(Processor):
    """Keep the tokens whose probability is at least ε.

    Hewitt, Manning & Liang 2022, "Truncation Sampling as Language Model Desmoothing" (arXiv 2210.15191).

    Parameters
    ----------
    epsilon
        In (0, 1); the paper's range is 3e-4 to 9e-4.
    min_tokens_to_keep
        Keep at least so many (and what ties with the last of them).
    """

    rank = 6
    of_transformers = "epsilon_cutoff"
    shift_invariant = True
    capturable = True

    epsilon: float = option("epsilon", "Keep tokens more probable than X.")
    min_tokens_to_keep: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "epsilon", _fraction("Epsilon.epsilon", self.epsilon))
        object.__setattr__(self, "min_tokens_to_keep", kept("Epsilon", self.min_tokens_to_keep))

    def __call__(self, history: History, scores: Float[Tensor, "n vocab"]) -> Float[Tensor, "n vocab"]:
        del history
        return _remove(scores, scores.softmax(-1) < self.epsilon, self.min_tokens_to_keep)


@dataclass(frozen=True)
class Eta(Processor):
    """Keep the tokens whose probability is at least η = min(ε, √ε · exp(−H)), H the entropy.

    Hewitt, Manning & Liang 2022, "Truncation Sampling as Language Model Desmoothing" (arXiv 2210.15191).

    Parameters
    ----------
    epsilon
        In (0, 1); the paper's range is 3e-4 to 4e-3.
    min_tokens_to_keep
        Keep at least so many (and what ties with the last of them).
    """

    rank = 7
    of_transformers = "eta_cutoff"
    shift_invariant = True
    capturable = True

    epsilon: float = option("eta", "The same, less where entropy is high.")
    min_tokens_to_keep: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "epsilon", _fraction("Eta.epsilon", self.epsilon))
        object.__setattr__(self, "min_tokens_to_keep", kept("Eta", self.min_tokens_to_keep))

    def __call__(self, history: History, scores: Float[Tensor, "n vocab"]) -> Float[Tensor, "n vocab"]:
        del history
        # transformers holds ε in float32 whatever the scores are, and takes the entropy of twice normalised
        # scores.
        epsilon = torch.full((), self.epsilon, dtype=torch.float32, device=scores.device)
        log_probs = scores - scores.logsumexp(-1, keepdim=True)
        entropy = -(log_probs.clamp(min=torch.finfo(scores.dtype).min) * log_probs.softmax(-1)).sum(-1, keepdim=True)
        eta = torch.minimum(epsilon.to(scores.dtype), epsilon.sqrt() * (-entropy).exp())
        return _remove(scores, scores.softmax(-1) < eta, self.min_tokens_to_keep)


@dataclass(frozen=True)
class TopNSigma(Processor):
    """Keep the tokens within n standard deviations of the best: `scores ≥ max − n·σ`.

    Tang et al. 2024, "Top-nσ: Not All Logits Are You Need" (arXiv 2411.07641), with the sample
    standard deviation of the released code. Tokens that are already forbidden do not count; where a single
    token is left, σ is 0. What is kept does not depend on the temperature.

    Parameters
    ----------
    n
        Above 0; the paper uses 1.
    """

    rank = 8
    shift_invariant = True
    capturable = True

    n: float = option("top_n_sigma", "Keep scores within X standard deviations of the best.")

    def __post_init__(self) -> None:
        n = number("TopNSigma.n", self.n, lambda x: 0 < x < math.inf, "use a number above 0, such as 1")
        object.__setattr__(self, "n", n)

    def __call__(self, history: History, scores: Float[Tensor, "n vocab"]) -> Float[Tensor, "n vocab"]:
        del history
        best = scores.amax(-1, keepdim=True)
        allowed = scores > -math.inf
        count = allowed.sum(-1, keepdim=True)
        # Distances from the best, 0 for what is forbidden: never −inf, so that sums stay finite.
        below = torch.where(allowed, best - scores, 0)
        mean = below.sum(-1, keepdim=True) / count
        spread = torch.where(allowed, below - mean, 0).square().sum(-1, keepdim=True)
        sigma = (spread / (count - 1).clamp(min=1)).sqrt()
        return scores.masked_fill(below > self.n * sigma, -math.inf)


def _best(scores: Float[Tensor, "n vocab"], k: int) -> Float[Tensor, "n 1"]:
    """Return the score of each row's k-th best token."""
    if k == 1:  # thirty times as fast
        return scores.amax(-1, keepdim=True)
    return scores.topk(min(k, scores.shape[-1]), dim=-1).values[:, -1:]


def _remove(
    scores: Float[Tensor, "n vocab"], unlikely: Bool[Tensor, "n vocab"], min_tokens_to_keep: int
) -> Float[Tensor, "n vocab"]:
    """Forbid the unlikely tokens, except for the best ones."""
    return scores.masked_fill(unlikely & (scores < _best(scores, min_tokens_to_keep)), -math.inf)


def _fraction(name: str, value: object) -> float:
    return number(name, value, lambda x: 0 < x < 1, "use a number between 0 and 1, such as 0.001")

"""Contrastive decoding: what the expert finds likely and a weaker model does not."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NoReturn

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn.functional import pad

from descant.checks import flag, kept, number, shown, whole
from descant.errors import SettingsError
from descant.scoring.base import Scoring
from descant.types import Logits, Mask

_IMPOSSIBLE = -1e4
"""The log-probability of a token to which the amateur gives none.

Lower than finite logits lead to in practice, so that such a token beats every other of the head, as the
formula has it; and near enough to 0 that the expert still decides between two of them, in float32 and after
division by a small temperature too.
"""

_CACHED_TOKENS = 1 << 18
"""Scores computed at a time on a CPU, so that the temporaries stay in its cache (twice as fast at 16 ×
152k)."""

_BLOCK = 64
"""Neighbouring tokens of which a CPU looks at the greatest logit first, to find a small head fast (contrasting
that alone is twice as fast at 16 × 152k)."""


@dataclass(frozen=True)
class Contrastive(Scoring):
    """Contrast an expert with an amateur, over the tokens that the expert finds plausible (the head).

    With p_E, l_E the expert's probabilities and logits, and l_A the amateur's logits:

    - head: `{x : p_E(x) ≥ α · max p_E}`, which is `l_E(x) ≥ log α + max l_E`; all other tokens score −inf.
    - Difference form (`beta=None`), Li et al. 2022, "Contrastive Decoding" (arXiv 2210.15097, section 3):
      `log p_E(x) − log softmax(l_A / τ)(x)`.
    - β form, O'Brien & Lewis 2023, "Contrastive Decoding Improves Reasoning" (arXiv 2309.09117):
      `(1 + β) · l_E(x) − β · l_A(x) / τ`, on logits. β = 0 is exactly min-p with p = α: compare with it, or
      the head takes the contrast's credit.

    Parameters
    ----------
    alpha
        α in (0, 1]: how much less likely than the best a token may be to the expert; 1 is greedy decoding.
    beta
        β ≥ 0: the strength of the contrast in the β form; None chooses the difference form.
    amateur_temperature
        τ > 0 divides the amateur's logits; below 1 it sharpens the amateur, so that its favourites are
        avoided more.
    candidates
        Cut the head to the expert's k best tokens too (and those that tie with the last); None: do not.
    normalization
        Where τ acts in the difference form: `"renormalized"`, before the softmax, as the paper has it;
        `"released"`, after it, `log softmax(l_A)(x) / τ`, as the paper's code has it: the same argmax at a
        position, but other totals of sequences.
    min_tokens_to_keep
        The head's least size; the released code keeps 2 in its beam search.
    selective
        Whether to leave the amateur out at steps whose head has a single token, which it cannot change; None
        lets the engine decide. The text is the same.

    Notes
    -----
    A token of the head to which the amateur gives no probability at all (a logit of −inf) counts as if its
    log-probability were −10⁴, which is also the least for all others: scores stay finite. In the β form the
    floor lies 10⁴ below the amateur's greatest logit. A token that the expert forbids (−inf) is never in the
    head. If a position's logits hold NaN, so do its scores.
    """

    sources: ClassVar[tuple[str, ...]] = ("expert", "amateur")

    alpha: float = 0.1
    beta: float | None = None
    amateur_temperature: float = 1.0
    candidates: int | None = None
    normalization: Literal["renormalized", "released"] = "renormalized"
    min_tokens_to_keep: int = 1
    selective: bool | None = None

    def __post_init__(self) -> None:
        keep = kept("Contrastive", self.min_tokens_to_keep)
        checked: dict[str, Any] = {
            "min_tokens_to_keep": keep,
            "alpha": number(
                "Contrastive.alpha",
                self.alpha,
                lambda x: 0 < x <= 1,
                "use a number above 0 and at most 1 (0.1 is usual, 1 is greedy decoding)",
            ),
            "amateur_temperature": number(
                "Contrastive.amateur_temperature",
                self.amateur_temperature,
                lambda x: 0 < x < math.inf,
                "use a number above 0 (1 changes nothing)",
            ),
        }
        if self.beta is not None:
            remedy = "use a number from 0 (0.5 is usual), or None for the difference form"
            checked["beta"] = number("Contrastive.beta", self.beta, lambda x: 0 <= x < math.inf, remedy)
        if self.candidates is not None:
            remedy = f"use at least min_tokens_to_keep={keep}, or None for no limit"
            checked["candidates"] = whole("Contrastive.candidates", self.candidates, keep, remedy)
        if self.selective is not None:
            flag("Contrastive.selective", self.selective, "use True or False, or None to let the engine decide")
        if self.normalization not in ("renormalized", "released"):
            self._refuse_normalization('use "renormalized" or "released"')
        if self.normalization == "released" and self.beta is not None:
            self._refuse_normalization("but the β form works on logits, which have none; leave out one of the two")
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def _refuse_normalization(self, remedy: str) -> NoReturn:
        raise SettingsError(f"Contrastive.normalization is {shown(self.normalization)}; {remedy}")

    def __call__(self, logits: Mapping[str, Logits]) -> Logits:
        expert, amateur = logits["expert"], logits["amateur"]
        threshold = self._threshold(expert)
        vocab = expert.shape[-1]
        positions = expert.numel() // vocab
        at_once = max(1, _CACHED_TOKENS // vocab) if expert.device.type == "cpu" else positions
        if positions <= at_once:
            return self._contrast(expert, amateur).masked_fill_(expert < threshold, -math.inf)
        experts, amateurs, thresholds = (x.reshape(-1, x.shape[-1]) for x in (expert, amateur, threshold))
        kept = _small_head(experts, thresholds)
        if kept is not None:
            contrast = self._contrast(experts, amateurs, lambda x: x.take(kept))
            scores = torch.full_like(experts, -math.inf, memory_format=torch.contiguous_format)
            scores.view(-1)[kept] = contrast
        else:
            scores = torch.empty_like(experts, memory_format=torch.contiguous_format)
            for start in range(0, positions, at_once):
                part = slice(start, start + at_once)
                contrast = self._contrast(experts[part], amateurs[part])
                scores[part] = contrast.masked_fill_(experts[part] < thresholds[part], -math.inf)
        return scores.view(expert.shape)

    def head(self, expert: Logits) -> Bool[Tensor, "*positions vocab"]:
        """Tell which tokens the expert finds plausible enough to be chosen.

        Parameters
        ----------
        expert
            Logits of shape `[..., vocab]`.

        Returns
        -------
        Booleans of the same shape. Where logits are NaN all tokens of the position count, so that scores show
        it.
        """
        return ~(expert < self._threshold(expert))

    def settled(self, expert: Logits) -> Mask:
        return self.head(expert).sum(-1) == 1

    @property
    def skips_settled(self) -> bool | None:
        return self.selective

    def _contrast(self, expert: Logits, amateur: Logits, at: Callable[[Tensor], Tensor] = lambda x: x) -> Tensor:
        """Return the formula's values as if all tokens were in the head; only those that `at` picks out."""
        tau = self.amateur_temperature
        if tau != 1 and self.normalization == "renormalized":
            amateur = amateur / tau
        if self.beta is None:
            amateur_log_probs = at(amateur.log_softmax(-1))
            if self.normalization == "released":
                amateur_log_probs /= tau
            return at(expert.log_softmax(-1)).sub_(amateur_log_probs.clamp_(min=_IMPOSSIBLE))
        floor = amateur.amax(-1, keepdim=True) + _IMPOSSIBLE
        floored = torch.maximum(at(amateur), at(floor.expand_as(amateur)))
        return ((1 + self.beta) * at(expert)).sub_(floored, alpha=self.beta)

    def _threshold(self, expert: Logits) -> Float[Tensor, "*positions 1"]:
        """Return the least logit of the head; NaN at a position with NaN."""
        threshold = expert.amax(-1, keepdim=True) + math.log(self.alpha)
        if self.min_tokens_to_keep > 1:
            threshold = torch.minimum(threshold, _kth_best(expert, self.min_tokens_to_keep))
            # Of fewer tokens than that, the forbidden ones would pass.
            threshold = threshold.clamp(min=torch.finfo(expert.dtype).min)
        if self.candidates is not None:
            threshold = torch.maximum(threshold, _kth_best(expert, self.candidates))
        return threshold


def _small_head(
    expert: Float[Tensor, "rows vocab"], threshold: Float[Tensor, "rows 1"]
) -> Int64[Tensor, " kept"] | None:
    """Return the head's places in the flattened logits (some may repeat), or None if it is not small."""
    vocab = expert.shape[-1]
    blocks = vocab // _BLOCK
    best = expert[:, : blocks * _BLOCK].unflatten(-1, (blocks, _BLOCK)).amax(-1)
    best = pad(best, (0, 1), value=math.inf)  # what is left over at the end is always looked at
    row, block = (~(best < threshold)).nonzero(as_tuple=True)
    if len(row) * _BLOCK > expert.numel() // 8:
        return None
    row = row.unsqueeze(-1)
    token = (block.unsqueeze(-1) * _BLOCK + torch.arange(_BLOCK)).clamp_(max=vocab - 1)
    return (row * vocab + token)[~(expert[row, token] < threshold[row, 0])]


def _kth_best(logits: Logits, k: int) -> Float[Tensor, "*positions 1"]:
    """Return the k-th greatest logit of each position, `[..., 1]`."""
    return logits.topk(min(k, logits.shape[-1]), dim=-1).values[..., -1:]

"""Contrastive decoding: what the expert finds likely and a weaker model does not."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NoReturn

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from descant.blocks import Blocks, in_parts, is_wide, log_total
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

    An amateur with another tokenizer gives log-probabilities of bytes, which τ divides as they are.
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
        expert, amateur = (logits[name].reshape(-1, logits[name].shape[-1]) for name in self.sources)
        if self.amateur_temperature != 1 and self.normalization == "renormalized":
            amateur = amateur / self.amateur_temperature
        blocks = Blocks(expert) if is_wide(expert) else None
        threshold = self._threshold(expert, blocks)
        total = logits.get("amateur total")
        levels = self._levels(expert, amateur, blocks, None if total is None else total.reshape(-1, 1))
        places = blocks.places_from(threshold) if blocks is not None else None
        scores = torch.full_like(expert, -math.inf, memory_format=torch.contiguous_format)
        if places is None:
            for part in in_parts(expert):
                contrast = self._contrast(*(x[part] for x in (expert, amateur, *levels)))
                scores[part] = contrast.masked_fill_(expert[part] < threshold[part], -math.inf)
        else:
            of_row = (level.take(places // expert.shape[-1]) for level in levels)
            scores.view(-1)[places] = self._contrast(expert.take(places), amateur.take(places), *of_row)
        return scores.view(logits["expert"].shape)

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

    def _levels(
        self,
        expert: Float[Tensor, "n vocab"],
        amateur: Float[Tensor, "n vocab"],
        blocks: Blocks | None,
        amateur_total: Float[Tensor, "n 1"] | None,
    ) -> tuple[Float[Tensor, "n 1"], Float[Tensor, "n 1"]]:
        """Return what each position's logits are compared with: their totals, in the β form the amateur's floor."""
        if self.beta is not None:
            floor = amateur.amax(-1, keepdim=True) + _IMPOSSIBLE
            return floor, floor
        total = blocks.log_total() if blocks is not None else log_total(expert)
        return total[:, None], log_total(amateur)[:, None] if amateur_total is None else amateur_total

    def _contrast(self, expert: Tensor, amateur: Tensor, expert_level: Tensor, amateur_level: Tensor) -> Tensor:
        """Return the formula's values, token by token, as if all were in the head."""
        if self.beta is not None:
            return ((1 + self.beta) * expert).sub_(torch.maximum(amateur, amateur_level), alpha=self.beta)
        log_probs = amateur - amateur_level
        if self.normalization == "released":
            log_probs /= self.amateur_temperature
        return (expert - expert_level).sub_(log_probs.clamp_(min=_IMPOSSIBLE))

    def _threshold(self, expert: Logits, blocks: Blocks | None = None) -> Float[Tensor, "*positions 1"]:
        """Return the least logit of the head; NaN at a position with NaN."""
        best = blocks.best() if blocks is not None else expert.amax(-1, keepdim=True)
        threshold = best + math.log(self.alpha)
        if self.min_tokens_to_keep > 1:
            threshold = torch.minimum(threshold, _kth_best(expert, self.min_tokens_to_keep))
            # Of fewer tokens than that, the forbidden ones would pass.
            threshold = threshold.clamp(min=torch.finfo(expert.dtype).min)
        if self.candidates is not None:
            threshold = torch.maximum(threshold, _kth_best(expert, self.candidates))
        return threshold


def _kth_best(logits: Logits, k: int) -> Float[Tensor, "*positions 1"]:
    """Return the k-th greatest logit of each position, `[..., 1]`."""
    return logits.topk(min(k, logits.shape[-1]), dim=-1).values[..., -1:]

"""Contrastive decoding: what the expert finds likely and a weaker model does not."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from descant.checks import flag, kept, number, plausibility, shown, whole
from descant.errors import SettingsError
from descant.numerics.wide import Blocks, in_parts, is_wide, log_total
from descant.scoring.base import Scoring
from descant.scoring.measures import IMPOSSIBLE
from descant.types import Logits, Mask


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

    sources = ("expert", "amateur")
    capturable = True

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
            "alpha": plausibility("Contrastive.alpha", self.alpha),
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
        total = logits.get("amateur total")
        if total is not None:
            total = total.reshape(-1, 1)
        scores = self._score_wide(expert, amateur, total) if is_wide(expert) else self._score(expert, amateur, total)
        return scores.view(logits["expert"].shape)

    def _score(
        self, expert: Float[Tensor, "n vocab"], amateur: Float[Tensor, "n vocab"], total: Float[Tensor, "n 1"] | None
    ) -> Float[Tensor, "n vocab"]:
        """Return the scores of positions; `total` is the amateur's, where it is not that of its logits."""
        if self.beta is not None:
            contrast = self._extrapolate(expert, amateur, amateur.amax(-1, keepdim=True) + IMPOSSIBLE)
        else:
            amateur = amateur.log_softmax(-1) if total is None else amateur - total
            contrast = self._difference(expert.log_softmax(-1), amateur)
        return contrast.masked_fill_(expert < self._threshold(expert), -math.inf)

    def _score_wide(
        self, expert: Float[Tensor, "n vocab"], amateur: Float[Tensor, "n vocab"], total: Float[Tensor, "n 1"] | None
    ) -> Float[Tensor, "n vocab"]:
        """Do what `_score` does, looking only at the tokens of the head where they are few."""
        blocks = Blocks(expert)
        threshold = self._threshold(expert, blocks)
        if self.beta is not None:
            levels = [amateur.amax(-1, keepdim=True) + IMPOSSIBLE]
        else:
            levels = [blocks.log_total()[:, None], log_total(amateur)[:, None] if total is None else total]
        scores = torch.full_like(expert, -math.inf, memory_format=torch.contiguous_format)
        places = blocks.places_from(threshold)
        if places is None:
            for part in in_parts(expert):
                contrast = self._contrast(*(x[part] for x in (expert, amateur, *levels)))
                scores[part] = contrast.masked_fill_(expert[part] < threshold[part], -math.inf)
        else:
            of_row = (level.take(places // expert.shape[-1]) for level in levels)
            scores.view(-1)[places] = self._contrast(expert.take(places), amateur.take(places), *of_row)
        return scores

    def head(self, expert: Logits) -> Bool[Tensor, "*positions vocab"]:
        """Tell which tokens the expert finds plausible enough to be chosen.

        Parameters
        ----------
        expert
            Logits of shape `[..., vocab]`.

        Returns
        -------
        Candidates
            Booleans of the same shape. Where logits are NaN all tokens of the position count, so that scores show
            it.
        """
        return ~(expert < self._threshold(expert))

    @property
    def head_suffices(self) -> bool:
        return True  # the amateur's normaliser is the same for all tokens of a position

    @property
    def additive(self) -> bool:
        return self.beta is None

    def settled(self, expert: Logits) -> Mask:
        return (expert >= self._threshold(expert)).sum(-1) == 1

    @property
    def skips_settled(self) -> bool | None:
        return self.selective

    def _contrast(self, expert: Tensor, amateur: Tensor, *levels: Tensor) -> Tensor:
        """Return the formula's values of some tokens: `levels` are the totals of both, or in the β form the floor."""
        if self.beta is not None:
            return self._extrapolate(expert, amateur, *levels)
        return self._difference(expert - levels[0], amateur - levels[1])

    def _difference(self, expert: Tensor, amateur: Tensor) -> Tensor:
        """Return the difference of log-probabilities, which are overwritten."""
        if self.normalization == "released":
            amateur /= self.amateur_temperature
        return expert.sub_(amateur.clamp_(min=IMPOSSIBLE))

    def _extrapolate(self, expert: Tensor, amateur: Tensor, floor: Tensor) -> Tensor:
        """Return the β form of logits."""
        assert self.beta is not None
        return ((1 + self.beta) * expert).sub_(torch.maximum(amateur, floor), alpha=self.beta)

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

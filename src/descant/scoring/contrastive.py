"""Contrastive decoding: what the expert finds likely and a weaker model does not."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, NoReturn

import torch
from jaxtyping import Float
from torch import Tensor

from descant.checks import flag, kept, number, plausibility, shown, whole
from descant.errors import SettingsError
from descant.numerics.wide import Rows, Values
from descant.options import option
from descant.scoring.base import Scoring
from descant.scoring.measures import IMPOSSIBLE
from descant.types import Candidates, Logits


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
        position, but other totals of sequences. `"none"`: the amateur's values are taken as they are, over τ; they are
        log-probabilities already where its tokenizer is another, and there this is chosen by itself.
    min_tokens_to_keep
        The head's least size; the released code keeps 2 in its beam search.
    selective
        Whether the amateur may be left out at steps whose head has a single token, which it cannot change; the
        engine does so where that saves time. The text is the same.

    Notes
    -----
    A token of the head to which the amateur gives no probability at all (a logit of −inf) counts as if its
    log-probability were −10⁴, which is also the least for all others: scores stay finite. In the β form the
    floor lies 10⁴ below the amateur's greatest logit. A token that the expert forbids (−inf) is never in the
    head. If a position's logits hold NaN, so do its scores.
    """

    sources = ("expert", "amateur")
    capturable = True

    alpha: float = option("alpha", "Among tokens at least X times as probable as the best.", default=0.1)
    beta: float | None = option("beta", "By (1+X)·expert − X·amateur, on logits.", default=None)
    amateur_temperature: float = option(
        "amateur_temperature", "Divides the amateur's logits; also --tau-amateur.", default=1.0, quiet=True
    )
    candidates: int | None = option("candidates", "Among the expert's N best tokens at most.", default=None, of="N")
    normalization: Literal["renormalized", "released", "none"] = "renormalized"
    min_tokens_to_keep: int = 1
    selective: bool = True

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
        flag("Contrastive.selective", self.selective)
        if self.normalization not in ("renormalized", "released", "none"):
            self._refuse_normalization('use "renormalized", "released" or "none"')
        if self.normalization == "released" and self.beta is not None:
            self._refuse_normalization("but the β form works on logits, which have none; leave out one of the two")
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def _refuse_normalization(self, remedy: str) -> NoReturn:
        raise SettingsError(f"Contrastive.normalization is {shown(self.normalization)}; {remedy}")

    def for_models(self, layers: int, *, tied: bool, bytewise: Collection[str] = ()) -> "Contrastive":
        del layers, tied
        return replace(self, normalization="none") if "amateur" in bytewise else self

    def __call__(self, logits: Mapping[str, Logits]) -> Logits:
        expert, amateur = (Rows(logits[name].reshape(-1, logits[name].shape[-1])) for name in self.sources)
        if self.amateur_temperature != 1 and self.normalization != "released":
            amateur = Rows(amateur.scores / self.amateur_temperature)
        least = self._threshold(expert)
        if self.beta is not None:
            values = expert.scores, amateur.scores, amateur.best() + IMPOSSIBLE
            scores = expert.at_least(least, self._extrapolation, *map(Values, values))
        else:
            other = Values(amateur.scores) if self.normalization == "none" else amateur.log_probs()
            scores = expert.at_least(least, self._difference, expert.log_probs(), other)
        return scores.view(logits["expert"].shape)

    def _difference(self, expert: Tensor, amateur: Tensor) -> Tensor:
        if self.normalization == "released":
            amateur = amateur / self.amateur_temperature
        return expert - amateur.clamp(min=IMPOSSIBLE)

    def _extrapolation(self, expert: Tensor, amateur: Tensor, floor: Tensor) -> Tensor:
        assert self.beta is not None
        return (1 + self.beta) * expert - self.beta * torch.maximum(amateur, floor)

    def _threshold(self, expert: Rows) -> Float[Tensor, "n 1"]:
        """Return the least logit of the head; NaN at a position with NaN."""
        threshold = expert.best() + math.log(self.alpha)
        if self.min_tokens_to_keep > 1:
            threshold = torch.minimum(threshold, _kth_best(expert.scores, self.min_tokens_to_keep))
            # Of fewer tokens than that, the forbidden ones would pass.
            threshold = threshold.clamp(min=torch.finfo(threshold.dtype).min)
        if self.candidates is not None:
            threshold = torch.maximum(threshold, _kth_best(expert.scores, self.candidates))
        return threshold

    def needed(self, expert: Logits, *, exactly: bool = False) -> Candidates | None:
        """The head, or nothing of a head of one token; all tokens where their sum is wanted too.

        Where logits are NaN all tokens of the position count, so that scores show it.
        """
        if exactly and self.normalization != "none":
            return None  # up to a constant a position, the amateur's normaliser is of no consequence
        logits = expert.reshape(-1, expert.shape[-1])
        head = ~(logits < self._threshold(Rows(logits)))
        if self.selective and not exactly:
            head &= head.sum(-1, keepdim=True) > 1
        return head.view_as(expert)

    @property
    def additive(self) -> bool:
        return self.beta is None


def _kth_best(logits: Float[Tensor, "n vocab"], k: int) -> Float[Tensor, "n 1"]:
    """Return the k-th greatest logit of each position."""
    return logits.topk(min(k, logits.shape[-1]), dim=-1).values[..., -1:]

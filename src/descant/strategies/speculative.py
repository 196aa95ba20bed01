"""Speculative decoding: a cheap model drafts several tokens, the expert verifies them in one pass.

Leviathan, Kalman & Matias 2022, "Fast Inference from Transformers via Speculative Decoding" (arXiv 2211.17192). Where
the amateur of a contrast drafts, this is speculative contrastive decoding, Yuan et al. 2023 (arXiv 2311.08981).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from descant.checks import number, shown, whole
from descant.errors import SettingsError
from descant.strategies.base import Draws, TokenStrategy
from descant.strategies.beam import Beam
from descant.strategies.contrastive_search import ContrastiveSearch
from descant.strategies.greedy import Greedy
from descant.strategies.sample import Sample
from descant.types import Chosen


@dataclass(frozen=True)
class PromptLookup:
    """Draft what followed the last tokens when they occurred before in the row: no model, and no cost.

    Yang et al. 2023, "Inference with Reference" (arXiv 2304.04487); Saxena 2023, "Prompt Lookup Decoding"
    (github.com/apoorvumang/prompt-lookup-decoding). Fast where a text repeats its prompt: summaries, edits, code.

    Parameters
    ----------
    ngram
        How many last tokens are looked up at most; shorter endings are tried where longer ones are new.
    """

    ngram: int = 3

    def __post_init__(self) -> None:
        object.__setattr__(self, "ngram", whole("PromptLookup.ngram", self.ngram, 1, "look up at least 1 token"))


@dataclass(frozen=True)
class Proposal:
    """Drafted tokens, position by position.

    Attributes
    ----------
    ids
        `[n]`: what was drafted.
    scores
        Returns `[n, vocab]`, of which each was drawn by `softmax`; or None, if they were not drawn at all.
    """

    ids: Chosen
    scores: Callable[[], Float[Tensor, "n vocab"] | None]


@dataclass(frozen=True)
class Speculative(TokenStrategy):
    """Let something cheap draft, and verify the drafts: the text of `base`, from fewer passes of the expert.

    With `Greedy` the tokens are those of plain decoding. With `Sample` the distribution is: a draft x, drawn from q,
    is accepted with probability min(1, p(x)/q(x)), where p is what plain decoding would draw from; the first one
    rejected is replaced by a draw from norm(max(0, p − q)), and if none is, p gives one token more (algorithm 1 of the
    paper). Both p and q are distributions after all processors. A seed gives another text than plain sampling does.

    Parameters
    ----------
    base
        `Greedy()` or `Sample()`.
    draft
        What drafts. None: the decoder's amateur, whose logits then serve the contrast as well, so that no pass is
        spent on it twice. Or a model with the expert's tokens, `EarlyExit(layer)`, `PromptLookup(ngram)`, or
        `OtherTokenizer(model, tokenizer)`, which writes text.
    tokens
        How many are drafted for a row before they are verified. `"auto"` chooses from the acceptance rate and the
        costs that are measured as decoding goes on, down to none where drafting would lose; with `Sample` the text
        then depends on these measurements, and a seed no longer repeats it.
    confidence
        A draft ends with a token to which the drafting model gives less probability than this: it is likely to be
        rejected, and all after it with it. 0 never ends one early.
    """

    base: TokenStrategy = field(default_factory=Greedy)
    draft: Any = None
    tokens: int | Literal["auto"] = 4
    confidence: float = 0.4

    def __post_init__(self) -> None:
        if isinstance(self.base, Beam):
            raise SettingsError(
                "Speculative cannot draft for a beam search, whose beams are not known until their rivals are judged; "
                "give Greedy() or Sample(), or Beam alone"
            )
        if isinstance(self.base, ContrastiveSearch):
            raise SettingsError(
                "Speculative cannot draft for a contrastive search, which needs the hidden states of k candidates at "
                "every position, and drafts give one; give Greedy() or Sample(), or ContrastiveSearch alone"
            )
        if not isinstance(self.base, (Greedy, Sample)):
            raise SettingsError(f"Speculative.base is {shown(self.base)}; give Greedy() or Sample()")
        if self.base.whole_batch:
            raise SettingsError(
                "Speculative cannot draw as transformers does, once a step for all rows: its rows advance at their own "
                'pace; give Sample(rng="seeded")'
            )
        if self.tokens != "auto":
            tokens = whole("Speculative.tokens", self.tokens, 1, 'draft at least 1 token, or "auto"')
            object.__setattr__(self, "tokens", tokens)
        remedy = "give a number from 0 to 1"
        confidence = number("Speculative.confidence", self.confidence, lambda x: 0 <= x <= 1, remedy)
        object.__setattr__(self, "confidence", confidence)

    @property
    def random(self) -> bool:
        return self.base.random

    @property
    def of_allowed(self) -> bool:
        return self.base.of_allowed

    def choose(self, scores: Float[Tensor, "n vocab"], draws: Draws) -> Chosen:
        return self.base.choose(scores, draws)

    def verify(self, scores: Float[Tensor, "n vocab"], proposal: Proposal, draws: Draws) -> Chosen:
        """Return the token that stands at each drafted position, if the drafts before it stand.

        Where it is the drafted one, the draft is accepted.

        Parameters
        ----------
        scores
            `[n, vocab]`: of plain decoding, given the drafts before each position.
        proposal
            The drafts.
        draws
            The randomness of each position.
        """
        drafted = proposal.scores() if self.random else None
        if drafted is None:  # a draft that was not drawn has probability 1: plain decoding decides, and may agree
            return self.base.choose(scores, draws)
        ids = proposal.ids[:, None]
        p, q = scores.softmax(-1), drafted.softmax(-1)
        uniforms = torch.stack([torch.rand((), generator=g, dtype=torch.float64) for g in draws.generators])
        rejected = uniforms.to(p) * q.gather(-1, ids)[:, 0] >= p.gather(-1, ids)[:, 0]
        [where] = rejected.nonzero(as_tuple=True)
        tokens = proposal.ids.clone()
        if len(where):
            tokens[where] = self._replace(scores[where], p[where] - q[where], draws, where.tolist())
        return tokens

    def _replace(
        self, scores: Float[Tensor, "n vocab"], excess: Float[Tensor, "n vocab"], draws: Draws, where: list[int]
    ) -> Chosen:
        """Draw from norm(max(0, p − q))."""
        left = excess.clamp(min=0)
        # Where p and q differ by rounding alone, nothing may be left, and p is as good.
        residual = torch.where(left.sum(-1, keepdim=True) > 0, left.log(), scores)
        chosen = Draws([draws.generators[i] for i in where], [draws.batch_rows[i] for i in where], draws.batch_size)
        return self.base.choose(residual, chosen)

"""Speculative decoding: a cheap model drafts several tokens, the expert verifies them in one pass.

Leviathan, Kalman & Matias 2022, "Fast Inference from Transformers via Speculative Decoding" (arXiv 2211.17192). Where
the amateur of a contrast drafts, this is speculative contrastive decoding, Yuan et al. 2023 (arXiv 2311.08981).
"""

import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from descant.checks import number, shown, whole
from descant.errors import SettingsError
from descant.models.passes.runner import DRAFT_BUCKETS, TOKEN_BUCKETS
from descant.options import option
from descant.rows import Row
from descant.strategies.base import BEHIND, Strategy, TokenStrategy
from descant.strategies.beam import Beam
from descant.strategies.contrastive_search import ContrastiveSearch
from descant.strategies.draft import Drafter, LookupDrafter, ModelDrafter, TextDrafter
from descant.strategies.draft_length import LONGEST, DraftLength, Round
from descant.strategies.drafts import Drafting, Drafts, Proposal
from descant.strategies.greedy import Greedy
from descant.strategies.growth import Draws, Growth, Loop
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

    heading = "Speculation: the same text from fewer passes of the expert; the amateur drafts unless told otherwise"

    base: TokenStrategy = field(default_factory=Greedy)
    draft: Any = None
    tokens: int | Literal["auto"] = option(
        "draft_tokens", "Draft N tokens at a time; auto: as many as pay.", default=4, of="N|auto"
    )
    confidence: float = option(
        "draft_confidence", "End a draft with a token less probable than X; 0.4.", default=0.4, quiet=True
    )

    def __post_init__(self) -> None:
        _refuse_several(self.base)
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

    @property
    def drafting(self) -> Drafting:
        return Drafting(self.draft, by_model=not isinstance(self.draft, PromptLookup))

    @property
    def of_transformers(self) -> Mapping[str, Any] | None:
        return None if self.random else {}  # drawn, it is the same distribution from other draws

    def over(self, base: TokenStrategy) -> "Speculative":
        return replace(self, base=base)

    @classmethod
    def in_place_of(cls, strategy: Strategy) -> "Speculative | None":
        if isinstance(strategy, Speculative):
            return strategy
        _refuse_several(strategy)
        return cls(strategy) if isinstance(strategy, TokenStrategy) else None

    def cost(self, expert: str) -> str:
        del expert
        return "fewer of expert"

    def passes(self, source: str, *, drafts: bool) -> Iterator[tuple[int, bool, int]]:
        most = LONGEST if self.tokens == "auto" else self.tokens
        drafts = drafts and self.drafting.by_model
        if source == "expert" or not drafts:
            verified = [bucket for bucket in TOKEN_BUCKETS if bucket < most + 1]
            yield from ((tokens, True, 0) for tokens in (*verified, most + 1))
        if source != "expert":
            yield from ((tokens, False, 0) for tokens in BEHIND)
        if drafts and isinstance(self.base, Greedy):
            ahead = [bucket for bucket in DRAFT_BUCKETS if bucket < most]
            yield from ((tokens, False, count) for count in (*ahead, most) for tokens in BEHIND[:2])

    def start(self, loop: Loop) -> Growth:
        return Rounds(self, loop)

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


def _refuse_several(base: Strategy) -> None:
    """Raise if a strategy follows several sequences or candidates, for which nothing can be drafted."""
    if isinstance(base, Beam):
        raise SettingsError(
            "Speculative cannot draft for a beam search, whose beams are not known until their rivals are judged; "
            "give Greedy() or Sample(), or Beam alone"
        )
    if isinstance(base, ContrastiveSearch):
        raise SettingsError(
            "Speculative cannot draft for a contrastive search, which needs the hidden states of k candidates at "
            "every position, and drafts give one; give Greedy() or Sample(), or ContrastiveSearch alone"
        )


class Rounds(Growth):
    """Rounds of drafting and verifying: each row takes the drafts that stand, and a token more.

    Parameters
    ----------
    strategy, loop
        Whose tokens are drafted. A source named `"draft"` drafts, or else the amateur.
    """

    def __init__(self, strategy: Speculative, loop: Loop) -> None:
        super().__init__(loop)
        self._strategy = strategy
        self._drafter = self._make_drafter()
        self._length = DraftLength.of(strategy.tokens)

    def step(self) -> list[Row]:
        loop = self.loop
        rows = loop.rows
        lengths = [len(row.tokens) for row in rows]
        steady = all(row.logprobs for row in rows)
        drafts = self._draft(rows)
        departed = self._verify(drafts)
        rest = [number for number in range(len(rows)) if number not in departed]
        if rest:
            judged = loop.judge_ends(rest, drafts, few=self._strategy.of_allowed)
            loop.emit(judged, self._strategy.choose(judged.scores, loop.draws(rest)))
        if drafts.longest:
            loop.sources.rewind([len(row.tokens) - 1 for row in rows])
        self._end_round(drafts, lengths, steady=steady)
        return rows

    def _make_drafter(self) -> Drafter:
        loop, strategy = self.loop, self._strategy
        if isinstance(strategy.draft, PromptLookup):
            return LookupDrafter(strategy.draft.ngram)
        source = "draft" if "draft" in loop.sources.others else "amateur"
        if source in loop.sources.bridges:
            return TextDrafter(loop.sources.bridges[source], strategy.confidence)
        return ModelDrafter(loop, source, strategy.base, strategy.confidence)

    def _draft(self, rows: Sequence[Row]) -> Drafts:
        """Have tokens drafted, for all rows but those that have no token of their own yet: the first one is urgent."""
        tokens = self._length.start_round()
        if not tokens:
            return Drafts([[] for _ in rows])
        most = [min(tokens, row.limit - len(row.tokens) - 1) if row.logprobs else 0 for row in rows]
        drafts = self._drafter.propose(rows, most)
        if self.loop.history is not None:
            self.loop.history.write(drafts.tokens)
        return drafts

    def _verify(self, drafts: Drafts) -> set[int]:
        """Emit the drafts that stand, and what replaces the first that does not; return the rows that go no further."""
        rows, _ = drafts.positions
        if not rows:
            return set()
        judged = self.loop.judge_drafts(drafts)
        proposal = drafts.proposal(judged.scores.device)
        ids = self._strategy.verify(judged.scores, proposal, self.loop.draws(rows))
        return self.loop.emit(judged, ids, [token for draft in drafts.tokens for token in draft])

    def _end_round(self, drafts: Drafts, lengths: Sequence[int], *, steady: bool) -> None:
        """Count what was drafted and accepted, and learn from it how much to draft."""
        drafted, accepted = [], []
        for row, draft, length in zip(self.loop.rows, drafts.tokens, lengths, strict=True):
            stands = sum(map(operator.eq, row.tokens[length : length + len(draft)], draft)) if draft else 0
            row.speculation = row.speculation.after_round(len(draft), stands)
            drafted.append(len(draft))
            accepted.append(stands)
        self._length.end_round(Round(drafted, accepted, steady and drafts.caught_up))

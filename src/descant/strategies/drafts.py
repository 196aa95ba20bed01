"""Tokens that were guessed and not yet verified."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from descant.types import Chosen


@dataclass(frozen=True)
class Drafting:
    """What a strategy has tokens drafted by.

    Attributes
    ----------
    setting
        A model or what stands for one; None: the decoder's amateur.
    by_model
        Whether a model drafts at all.
    """

    setting: Any
    by_model: bool

    @property
    def by_amateur(self) -> bool:
        """Whether it is the decoder's amateur."""
        return self.by_model and self.setting is None


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


@dataclass
class Drafts:
    """Tokens drafted in one round.

    Attributes
    ----------
    tokens
        By row: what was drafted, perhaps nothing.
    source
        The source that drafted, if it is one; it has read all drafts of a row but the last.
    logits
        `[rows, places, vocab]`: what the source's logits were; meaningless for rows whose draft had ended.
    scores
        The same after the processors: the drafts were chosen from these.
    caught_up
        Whether the source had read all but a few tokens of each row before.
    """

    tokens: list[list[int]]
    source: str | None = None
    logits: Float[Tensor, "rows places vocab"] | None = None
    scores: Float[Tensor, "rows places vocab"] | None = None
    caught_up: bool = True

    @property
    def longest(self) -> int:
        """The most tokens drafted for a row."""
        return max(map(len, self.tokens))

    @property
    def positions(self) -> tuple[list[int], list[int]]:
        """Row and place of every drafted token, row by row."""
        pairs = [(row, place) for row, draft in enumerate(self.tokens) for place in range(len(draft))]
        return [row for row, _ in pairs], [place for _, place in pairs]

    def at_positions(self, by_place: Float[Tensor, "rows places vocab"]) -> Float[Tensor, "n vocab"]:
        """Return `[n, vocab]` at the positions of the drafted tokens."""
        return by_place[0, : len(self.tokens[0])] if len(self.tokens) == 1 else by_place[self.positions]

    def proposal(self, device: torch.device) -> Proposal:
        """Return the drafted tokens, and the scores they were drawn from, position by position."""
        ids = torch.tensor([token for draft in self.tokens for token in draft], device=device)
        return Proposal(ids, lambda: None if self.scores is None else self.at_positions(self.scores))

"""One decode on the clock: its tokens, when the first of them came, and how fast the others followed."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel

from descant.results import Piece


@dataclass(frozen=True)
class Span:
    """One call on the clock, times in seconds of `time.perf_counter`.

    Attributes
    ----------
    start
        When it was called.
    first
        When every row had its first token.
    first_tokens
        How many tokens all rows had by then: a first round of speculation yields several at once.
    end
        When it returned.
    """

    start: float
    first: float
    first_tokens: int
    end: float


@dataclass(frozen=True)
class Decoded:
    """What a contender made of all prompts, in one call or in several one after another.

    Attributes
    ----------
    tokens
        New tokens of each row.
    spans
        The calls.
    drafted, accepted
        Drafted tokens of all rows, and how many of them were taken; 0 without speculation.
    """

    tokens: list[list[int]]
    spans: tuple[Span, ...]
    drafted: int = 0
    accepted: int = 0

    @property
    def first_token_seconds(self) -> float:
        """Seconds until every row had its first token, the waits of calls one after another added up."""
        return sum(span.first - span.start for span in self.spans)

    @property
    def seconds(self) -> float:
        """Seconds of all calls."""
        return sum(span.end - span.start for span in self.spans)

    @property
    def later_tokens(self) -> int:
        """How many tokens came after the first ones."""
        return sum(map(len, self.tokens)) - sum(span.first_tokens for span in self.spans)

    @property
    def later_seconds(self) -> float:
        """Seconds from the first tokens to the end."""
        return sum(span.end - span.first for span in self.spans)

    @property
    def tokens_per_second(self) -> float:
        """Tokens a second of all rows together, after the first ones; of the whole call where none came later."""
        if self.later_tokens:
            return self.later_tokens / self.later_seconds
        return sum(map(len, self.tokens)) / self.seconds


def follow(rows: int, decode: Callable[[], Iterable[Piece]]) -> Decoded:
    """Run a stream of descant to its end, on the clock.

    Parameters
    ----------
    rows
        How many prompts it decodes.
    decode
        Begins it.
    """
    tokens: list[list[int]] = [[] for _ in range(rows)]
    drafted = accepted = first_tokens = 0
    start, first = time.perf_counter(), None
    for piece in decode():
        tokens[piece.index] += piece.token_ids
        if first is None and all(tokens):
            first, first_tokens = time.perf_counter(), sum(map(len, tokens))
        speculation: Any = getattr(piece.output, "speculation", None)
        if speculation is not None:
            drafted, accepted = drafted + speculation.drafted, accepted + speculation.accepted
    end = time.perf_counter()
    return Decoded(tokens, (Span(start, first or end, first_tokens, end),), drafted, accepted)


@contextmanager
def passes(*models: PreTrainedModel) -> Iterator[list[list[float]]]:
    """Note the time of every forward pass of each model."""
    times: list[list[float]] = [[] for _ in models]
    handles = [
        model.register_forward_pre_hook(lambda *_, own=own: own.append(time.perf_counter()))
        for model, own in zip(models, times, strict=True)
    ]
    try:
        yield times
    finally:
        for handle in handles:
            handle.remove()

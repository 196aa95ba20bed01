"""One row of a decode: its tokens, how it ends, and the text it has shown."""

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from transformers import PreTrainedTokenizerBase

from descant.results import Speculation, Timing, TokenTrace
from descant.sources.other_prompt import Replacement
from descant.tokens import Detokenizer, StopMatcher
from descant.types import FinishReason


@dataclass(frozen=True)
class Ending:
    """What ends a row besides its length.

    Attributes
    ----------
    token_ids
        End-of-sequence ids.
    strings
        Stop strings, matched literally in the text, which has special tokens for this.
    also
        Asked of the new tokens after each; None: nothing else.
    """

    token_ids: frozenset[int] = frozenset()
    strings: tuple[str, ...] = ()
    also: Callable[[Sequence[int]], bool] | None = None


class TextFollower:
    """Turns tokens into text as they arrive after others, and watches for stop strings.

    Stop strings see special tokens, and the text does not. For them a special token ends what stands before it: where
    it parts the bytes of a character, the text has the broken character that they saw.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, before: Sequence[int], strings: Sequence[str]) -> None:
        self._detokenizer = Detokenizer(tokenizer, before)
        self._matcher = StopMatcher(strings)
        self._watching = bool(strings)
        self.text = ""
        self.matched = False

    def push(self, token_id: int) -> None:
        """Add a token; `text` grows by what is certain, `matched` tells whether a stop string is complete."""
        special = self._detokenizer.special(token_id) if self._watching else None
        if special is None:
            self._emit(self._detokenizer.push(token_id))
        else:
            self._emit(self._detokenizer.flush())
            self._emit(special, hidden=True)

    def fork(self) -> "TextFollower":
        """Return a follower of the same tokens that goes its own way."""
        twin = copy.copy(self)
        twin._detokenizer = self._detokenizer.fork()
        twin._matcher = copy.copy(self._matcher)
        return twin

    def finish(self) -> None:
        """Add what was held back, unless a stop string ended the text."""
        if not self.matched:
            self._emit(self._detokenizer.flush())
        if not self.matched:
            self.text += self._matcher.finish()

    def _emit(self, text: str, *, hidden: bool = False) -> None:
        certain, matched = self._matcher.push(text, hidden=hidden)
        self.text += certain
        self.matched = matched is not None


@dataclass(eq=False)
class Row:
    """The mutable state of one row, from its prompt to its end.

    Attributes
    ----------
    index
        Its place in the call.
    tokens
        Prompt and new tokens.
    prompt_length
        How many of them are the prompt.
    limit
        The most tokens it may hold.
    ending
        What else ends it.
    generator
        Its source of randomness.
    follower
        Its text so far; None where nobody needs it before the end.
    other_prompts
        What sources by name read in place of its prompt.
    total
        Of a beam: the sum of its tokens' scores.
    score
        Of a beam that has ended: its total after the length penalty.
    alternatives
        Of the best beam: the others, best first.
    """

    index: int
    tokens: list[int]
    prompt_length: int
    limit: int
    ending: Ending
    generator: torch.Generator
    follower: TextFollower | None = None
    other_prompts: Mapping[str, Replacement] = field(default_factory=dict)
    logprobs: list[float] = field(default_factory=list)
    top_logprobs: list[list[tuple[int, float]]] = field(default_factory=list)
    trace: list[TokenTrace] = field(default_factory=list)
    exit_layers: list[int] = field(default_factory=list)
    speculation: Speculation = field(default_factory=Speculation)
    total: float = 0.0
    score: float | None = None
    alternatives: "list[Row]" = field(default_factory=list)
    finish_reason: FinishReason | None = None
    submitted_at: float = field(default_factory=time.perf_counter)
    first_token_at: float | None = None
    ended_at: float | None = None

    def __post_init__(self) -> None:
        if len(self.tokens) >= self.limit:
            self.finish("length")

    @property
    def new_tokens(self) -> list[int]:
        """The tokens that were chosen."""
        return self.tokens[self.prompt_length :]

    def fork(self) -> "Row":
        """Return a row with the same tokens that goes its own way, for another beam."""
        twin = object.__new__(Row)  # what `copy.copy` does, in a tenth of the time: every beam forks at each step
        twin.__dict__.update(self.__dict__)
        twin.tokens, twin.logprobs = self.tokens.copy(), self.logprobs.copy()
        twin.top_logprobs, twin.trace = self.top_logprobs.copy(), self.trace.copy()
        twin.exit_layers = self.exit_layers.copy()
        if self.follower is not None:
            twin.follower = self.follower.fork()
        return twin

    def append(self, token_id: int, logprob: float) -> None:
        """Add a chosen token and end the row if it is complete."""
        assert self.finish_reason is None, "a row that has ended takes no tokens"
        if self.first_token_at is None:
            self.first_token_at = time.perf_counter()
        self.tokens.append(token_id)
        self.logprobs.append(logprob)
        if self.follower is not None:
            self.follower.push(token_id)
        asked = self.ending.also is not None and self.ending.also(self.new_tokens)
        if asked or token_id in self.ending.token_ids or (self.follower is not None and self.follower.matched):
            self.finish("stop")
        elif len(self.tokens) >= self.limit:
            self.finish("length")

    def finish(self, reason: FinishReason) -> None:
        """End the row.

        Text that was held back may complete a stop string now: a byte-fallback tokenizer's newline, say, which is
        certain only once the next token is known not to continue it.
        """
        self.ended_at = time.perf_counter()
        if self.follower is not None:
            self.follower.finish()
            if self.follower.matched:
                reason = "stop"
        self.finish_reason = reason

    def timing(self) -> Timing:
        """Return the row's times; it must have ended."""
        assert self.ended_at is not None
        total = self.ended_at - self.submitted_at
        first = None if self.first_token_at is None else self.first_token_at - self.submitted_at
        return Timing(first, total, len(self.logprobs) / total if total else 0.0)

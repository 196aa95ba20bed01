"""What a decode returns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from descant.types import FinishReason

__all__ = [
    "Candidate",
    "Output",
    "Piece",
    "Score",
    "Speculation",
    "Timing",
    "TokenTrace",
]


@dataclass(frozen=True)
class Timing:
    """Wall-clock times of one row, in seconds, from the moment its batch was submitted.

    Attributes
    ----------
    time_to_first_token
        Until its first token was chosen; None if it has none.
    total
        Until it ended.
    tokens_per_second
        New tokens over `total`.
    """

    time_to_first_token: float | None
    total: float
    tokens_per_second: float


@dataclass(frozen=True)
class Speculation:
    """What speculation came to for one row.

    Attributes
    ----------
    drafted
        Tokens that were drafted for it.
    accepted
        Those of them that are in its text.
    rounds
        Passes of the expert. Each gave the accepted drafts and, unless the row ended with them, one token more.
    """

    drafted: int = 0
    accepted: int = 0
    rounds: int = 0

    @property
    def acceptance_rate(self) -> float | None:
        """The share of drafted tokens that were accepted; None if none was drafted."""
        return self.accepted / self.drafted if self.drafted else None

    def after_round(self, drafted: int, accepted: int) -> "Speculation":
        """Return the sums with one round more."""
        return Speculation(self.drafted + drafted, self.accepted + accepted, self.rounds + 1)


@dataclass(frozen=True)
class Candidate:
    """A member of the plausibility head at one step; log-probabilities are natural."""

    token_id: int
    expert_logprob: float
    amateur_logprob: float | None
    score: float


@dataclass(frozen=True)
class TokenTrace:
    """Why a token was chosen.

    Attributes
    ----------
    token_id
        The token.
    text
        Its text by itself.
    expert_logprob
        Its natural log-probability under the expert.
    expert_rank
        Its rank there; 1 is the most probable.
    amateur_logprob
        Its natural log-probability under the amateur, or None where the method has none; under one with another
        tokenizer, that of its bytes.
    amateur_rank
        Its rank there; None where there is none, as under another tokenizer.
    score
        What the scoring gave it, before the processors.
    head_size
        How many tokens the scoring allowed.
    head
        Those tokens, best score first, 20 at most.
    expert_entropy
        The entropy of the expert's distribution, in nats.
    amateur_entropy
        The same of the amateur's; None where it has no rank.
    greedy_token_id
        What the expert alone would have chosen.
    """

    token_id: int
    text: str
    expert_logprob: float
    expert_rank: int
    amateur_logprob: float | None
    amateur_rank: int | None
    score: float
    head_size: int
    head: tuple[Candidate, ...]
    expert_entropy: float
    amateur_entropy: float | None
    greedy_token_id: int


@dataclass(frozen=True)
class Output:
    """One decoded row.

    Attributes
    ----------
    text
        The new text, without special tokens and without the stop string that ended it: what follows the prompt's,
        so that both together are the decoded whole (a first space included, which tokenizers like Llama 2's take from
        new tokens that are decoded alone). Empty if the decoder has no tokenizer.
    token_ids
        The new tokens only; an end-of-sequence id that ended the row is included, as in transformers.
    finish_reason
        `"stop"`: an end-of-sequence id or a stop string. `"length"`: `max_new_tokens` or the model's context is
        used up. `"cancelled"`: the caller cancelled.
    logprobs
        For each token its natural log-probability under the distribution it was chosen from: the softmax of the
        scores after all processors.
    score
        Of a beam: the sum of its tokens' scores over `length ** length_penalty`. None for other strategies.
    method
        Every setting that made the text, as plain data.
    timing
        Wall-clock times.
    prompt_token_ids
        The prompt as the model read it.
    top_logprobs
        For each token the most probable `(token id, log-probability)`, best first, where `top_logprobs=k` asked
        for them.
    alternatives
        The other beams, best first. They may be fewer than were asked for where a scoring allows few tokens.
    trace
        Why each token was chosen, where `trace=True` asked for it.
    exit_layers
        For each token after how many layers of the expert it was chosen, where the decoder has a `ConfidentExit`.
    speculation
        How many tokens were drafted and accepted, where the strategy is `Speculative`.
    other_prompt_token_ids
        What sources by name read in place of the prompt.
    """

    text: str
    token_ids: list[int]
    finish_reason: FinishReason
    logprobs: list[float]
    method: Mapping[str, Any]
    timing: Timing
    prompt_token_ids: list[int]
    top_logprobs: list[list[tuple[int, float]]] | None = None
    score: float | None = None
    alternatives: "Sequence[Output]" = ()
    trace: list[TokenTrace] | None = None
    exit_layers: list[int] | None = None
    speculation: Speculation | None = None
    other_prompt_token_ids: Mapping[str, list[int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Piece:
    """A part of a streamed row.

    Attributes
    ----------
    index
        Which prompt of the call it continues.
    text
        New text: whole characters, never the beginning of a stop string.
    token_ids
        The tokens chosen since the row's last piece. Their text may come with a later piece.
    output
        The whole row, with its last piece; None before.
    """

    index: int
    text: str
    token_ids: list[int] = field(default_factory=list)
    output: Output | None = None


class Score(float):
    """The natural log-probability of a continuation, with its parts.

    Attributes
    ----------
    token_ids
        The continuation's tokens.
    logprobs
        The log-probability of each given what precedes it; they add up to the score. −inf where a method does not
        allow the token.
    greedy
        Whether each is the one with the best score: greedy decoding would write this continuation.
    """

    token_ids: list[int]
    logprobs: list[float]
    greedy: bool

    def __new__(cls, token_ids: Sequence[int], logprobs: Sequence[float], *, greedy: bool) -> "Score":
        score = super().__new__(cls, sum(logprobs))
        score.token_ids, score.logprobs, score.greedy = list(token_ids), list(logprobs), greedy
        return score

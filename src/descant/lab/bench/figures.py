"""What is measured, as plain data, and the arithmetic from timed decodes to figures."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from descant.errors import SettingsError
from descant.lab.bench.clock import Decoded
from descant.lab.bench.measure import Spread

Engine = Literal["descant", "transformers"]
Tokens = int | Literal["auto"]
"""A draft length."""


@dataclass(frozen=True)
class Settings:
    """How much is measured.

    Attributes
    ----------
    max_new_tokens
        New tokens of every row; all rows decode to that length.
    rounds
        How often every contender is timed, at least 2.
    draft_tokens
        Draft lengths to try, each below `max_new_tokens`.
    without_cache
        Whether contrast through transformers without a cache runs too.
    """

    max_new_tokens: int = 64
    rounds: int = 5
    draft_tokens: tuple[Tokens, ...] = (1, 2, 3, 4, 6, 8)
    without_cache: bool = False

    def __post_init__(self) -> None:
        if self.max_new_tokens < 2 or self.rounds < 2:
            raise SettingsError("a rate needs at least 2 new tokens and a spread at least 2 rounds; raise them")
        if not self.draft_tokens:
            raise SettingsError("there is no draft length to try; give at least one")
        for tokens in self.draft_tokens:
            if tokens != "auto" and not 1 <= tokens < self.max_new_tokens:
                raise SettingsError(
                    f"a draft of {tokens!r} tokens does not lie from 1 to below max_new_tokens={self.max_new_tokens}; "
                    "change one of them"
                )


@dataclass(frozen=True)
class Figures:
    """What was measured of one contender. Rates are of all rows together, after their first tokens.

    Attributes
    ----------
    engine, name, note
        Who it is.
    first_token_seconds, tokens_per_second
        Medians and quartiles over the rounds.
    over_generate, over_counterpart
        Its rate over that of transformers' greedy decoding, and over transformers' own way to the same tokens, round by
        round; None where there is none.
    limit_tokens_per_second
        The rate at which the weights that it reads would be read at the memory bandwidth of the same round; None where
        that is not known.
    share_of_limit
        Its rate over that limit, round by round; above 1 where the weights come from a cache.
    draft_tokens, acceptance_rate
        The best draft length, and the share of drafted tokens that were taken; None without speculation.
    same_tokens
        Whether every token is that of descant's plain decoding.
    same_share
        The share of a row's tokens before the first that differs, on average.
    """

    engine: Engine
    name: str
    note: str
    first_token_seconds: Spread
    tokens_per_second: Spread
    over_generate: Spread | None
    over_counterpart: Spread | None
    limit_tokens_per_second: Spread | None
    share_of_limit: Spread | None
    draft_tokens: Tokens | None
    acceptance_rate: float | None
    same_tokens: bool
    same_share: float


@dataclass(frozen=True)
class Draft:
    """One draft length, tried; no rate of acceptance if nothing was drafted."""

    name: str
    draft_tokens: Tokens
    tokens_per_second: Spread
    acceptance_rate: float | None


@dataclass(frozen=True)
class Missing:
    """A contender that could not run, and why."""

    engine: Engine
    name: str
    reason: str


@dataclass(frozen=True)
class Measurements:
    """All results of one run; bandwidth in bytes a second."""

    bandwidth: Spread
    figures: tuple[Figures, ...]
    drafts: tuple[Draft, ...]
    missing: tuple[Missing, ...]


def counterpart(name: str, base: str) -> str:
    """Return the name of transformers' own way to the tokens of a contender, by its name and its plain method."""
    return "assisted" if name == "speculative" else base


def read_bytes(counts: Sequence[int], sizes: Sequence[int | None]) -> int | None:
    """Return the bytes that some passes of each model read; None if nothing was seen, or a size is not known."""
    if not any(counts) or any(count and size is None for count, size in zip(counts, sizes, strict=True)):
        return None
    return sum(count * size for count, size in zip(counts, sizes, strict=True) if size is not None)


def acceptance_rate(rounds: Sequence[Decoded]) -> float | None:
    """Return the share of drafted tokens that were taken in all rounds; None if none was drafted."""
    drafted = sum(decoded.drafted for decoded in rounds)
    return sum(decoded.accepted for decoded in rounds) / drafted if drafted else None


def limits(rounds: Sequence[Decoded], read: Sequence[int | None], bandwidths: Sequence[float]) -> list[float] | None:
    """Return for each round the tokens a second that its bandwidth allows, if nothing but weights is read.

    Parameters
    ----------
    rounds
        What was decoded.
    read
        Bytes of weights that were read for the tokens after the first ones.
    bandwidths
        Bytes a second.
    """
    if not all(read):
        return None
    both = zip(rounds, read, bandwidths, strict=True)
    return [decoded.later_tokens / size * bandwidth for decoded, size, bandwidth in both if size]


def same_share(rows: Sequence[Sequence[int]], right: Sequence[Sequence[int]]) -> float:
    """Return how much of each row precedes the first token that differs, averaged; the right rows may go on."""
    shares = []
    for row, expected in zip(rows, right, strict=True):
        wrong = (place for place, (a, b) in enumerate(zip(row, expected, strict=False)) if a != b)
        shares.append(next(wrong, len(row)) / len(row))
    return sum(shares) / len(shares)

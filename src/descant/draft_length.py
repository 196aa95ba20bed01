"""How many tokens to draft before they are verified: a number, or what is best for the costs that are measured."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

_LONGEST = 8
"""The most tokens drafted at once: a bfloat16 layer on a CPU costs the same up to 8 tokens."""

_FIRST = 2
"""Drafted in the first round that drafts: little is lost if none is accepted."""

_PROBE_EVERY = 32
"""Rounds without drafts after which one token is drafted, to see whether that pays by now."""

_REMEMBERED = 8
"""Measurements of which the median counts."""

_DECAY = 0.95
"""Weight of past acceptance a round later."""

_PRIOR_ACCEPTED, _PRIOR_ENDED = 1.4, 0.6
"""What is assumed before anything is measured: an acceptance of 0.7, with the weight of two tokens."""


@dataclass(frozen=True)
class Round:
    """What one round came to.

    Attributes
    ----------
    drafted, accepted
        Tokens by row.
    steady
        Whether its time is that of a usual round: no row read its prompt.
    """

    drafted: Sequence[int]
    accepted: Sequence[int]
    steady: bool


class DraftLength:
    """A fixed length.

    It is asked for before each round, and told what the round came to.

    Parameters
    ----------
    tokens
        How many tokens to draft.
    """

    def __init__(self, tokens: int) -> None:
        self._tokens = tokens

    @staticmethod
    def of(tokens: int | Literal["auto"]) -> "DraftLength":
        """Return a fixed length, or one that adapts."""
        return AdaptiveLength() if tokens == "auto" else DraftLength(tokens)

    def start_round(self) -> int:
        """Return how many tokens to draft for a row, at most."""
        return self._tokens

    def drafted(self) -> None:
        """Note that the drafts of the round are there, to be verified."""

    def end_round(self, outcome: Round) -> None:
        """Learn from the round."""


class AdaptiveLength(DraftLength):
    """The length that gives the most tokens a second.

    If a draft's tokens are accepted with probability a each, a round that drafts k gives 1 + a + … + a^k tokens
    (Leviathan et al. 2022, arXiv 2211.17192, equation 1) and takes k draft passes and one verification of k tokens;
    k = 0 is plain decoding. Costs are medians of the last rounds', and verifications of lengths not tried yet are
    interpolated.

    Parameters
    ----------
    clock
        Seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        super().__init__(tokens=0)
        self._clock = clock
        self._accepted, self._ended = _PRIOR_ACCEPTED, _PRIOR_ENDED
        self._draft_costs: deque[float] = deque(maxlen=_REMEMBERED)
        self._verify_costs: dict[int, deque[float]] = {}
        self._since_draft = 0
        self._times = [0.0, 0.0]

    def start_round(self) -> int:
        self._tokens = self._next()
        self._times = [self._clock()]
        return self._tokens

    def drafted(self) -> None:
        self._times.append(self._clock())

    def end_round(self, outcome: Round) -> None:
        started, drafted = self._times
        longest = max(outcome.drafted)
        self._since_draft = 0 if longest else self._since_draft + 1
        if outcome.steady:
            self._verify_costs.setdefault(longest, deque(maxlen=_REMEMBERED)).append(self._clock() - drafted)
            if longest:
                self._draft_costs.append((drafted - started) / longest)
        accepted = sum(outcome.accepted)
        # A draft that its source broke off counts as one that was rejected: no more came of it.
        ended = sum(got < longest for got in outcome.accepted) if longest else 0
        self._accepted = self._accepted * _DECAY + accepted
        self._ended = self._ended * _DECAY + ended

    def _next(self) -> int:
        if not self._verify_costs:
            return 0
        if not self._draft_costs:
            return _FIRST
        if self._since_draft >= _PROBE_EVERY:
            return 1
        return max(range(_LONGEST + 1), key=self._rate)

    def _rate(self, length: int) -> float:
        """Return the tokens a second that rounds of some length are expected to give a row."""
        acceptance = self._accepted / (self._accepted + self._ended)
        tokens = sum(acceptance**place for place in range(length + 1))
        return tokens / (length * median(self._draft_costs) + self._verify_cost(length))

    def _verify_cost(self, length: int) -> float:
        known = {tried: median(costs) for tried, costs in self._verify_costs.items()}
        if length in known:
            return known[length]
        below = max((tried for tried in known if tried < length), default=min(known))
        above = min((tried for tried in known if tried > length), default=max(known))
        if below == above or (slope := (known[above] - known[below]) / (above - below)) < 0:
            slope = 0.0
        return known[below] + slope * (length - below)

"""How many tokens to draft before they are verified: a number, or what is best for the costs that are measured."""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Literal

LONGEST = 8
"""The most tokens drafted at once: a bfloat16 layer on a CPU costs the same up to 8 tokens."""

_FIRST = 2
"""Drafted in the first round that drafts: little is lost if none is accepted."""

_PLAIN_ROUNDS = 4
"""Rounds without drafts that are timed before that: the first ones after a prompt are slow."""

_PROBE_EVERY, _PROBE_EVERY_OF_ROWS = 32, 128
"""Rounds without drafts after which one token is drafted, to see whether that pays by now; and the reverse. A single
round gains several rows nothing: one of them will reject what was drafted for it."""

_GAIN, _GAIN_OF_ROWS = 1.02, 1.3
"""What drafting must gain by estimate to be chosen: estimates err, and not drafting is safe. Several rows advance
unevenly, and the call lasts as long as the slowest."""

_FURTHER, _FURTHER_OF_ROWS = 0.6, 1.0
"""How much of the slope of the costs is believed to go on beyond the lengths that were tried: parts of it are paid
once a round, and a length that is estimated too cheap is measured as soon as it is chosen. Several rows pay for it."""

_OUTLIER = 10
"""A round that takes so many times as long as any before is no measure of it: a pass was compiled."""

_REMEMBERED = 8
"""Rounds of each length whose times count."""

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
        Whether its time is that of a usual round: no model read a prompt, or caught up by more than a few tokens.
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

    def end_round(self, outcome: Round) -> None:
        """Learn from the round."""


class AdaptiveLength(DraftLength):
    """The length that gives the most tokens a second.

    If a draft's tokens are accepted with probability a each, a round that drafts k gives 1 + a + … + a^k tokens
    (Leviathan et al. 2022, arXiv 2211.17192, equation 1). What it costs is the mean time of the last rounds of that
    length, drafting and verification together; lengths not tried yet are interpolated. k = 0 is plain decoding.

    Parameters
    ----------
    clock
        Seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        super().__init__(tokens=0)
        self._clock = clock
        self._accepted, self._ended = _PRIOR_ACCEPTED, _PRIOR_ENDED
        self._times: dict[int, deque[float]] = {}
        self._since_plain = self._since_draft = 0
        self._started = 0.0
        self._several = self._undecided = False

    def start_round(self) -> int:
        self._tokens = self._next()
        self._started = self._clock()
        return self._tokens

    def end_round(self, outcome: Round) -> None:
        asked = self._tokens
        self._since_draft = 0 if asked else self._since_draft + 1
        self._since_plain = self._since_plain + 1 if asked else 0
        taken = self._clock() - self._started
        usual = max((time for times in self._times.values() for time in times), default=taken)
        if outcome.steady and taken <= _OUTLIER * usual:
            self._times.setdefault(asked, deque(maxlen=_REMEMBERED)).append(taken)
        # A draft that its source broke off counts as one that was rejected: no more came of it.
        ended = sum(got < asked for got in outcome.accepted)
        self._several = len(outcome.accepted) > 1
        self._accepted = self._accepted * _DECAY + sum(outcome.accepted)
        self._ended = self._ended * _DECAY + ended

    def _next(self) -> int:
        if len(self._times.get(0, ())) < _PLAIN_ROUNDS:
            return 0
        if len(self._times) == 1:
            return _FIRST
        if self._since_plain >= _PROBE_EVERY:
            self._undecided = True
            return 0
        if self._since_draft >= (_PROBE_EVERY_OF_ROWS if self._several else _PROBE_EVERY):
            return 1
        if self._since_draft and not self._undecided:
            return 0  # nothing was learnt since that was decided
        self._undecided = False
        costs = {length: _typical(times) for length, times in self._times.items()}
        acceptance = self._accepted / (self._accepted + self._ended)

        def rate(length: int) -> float:
            """Return the tokens a second that rounds of some length are expected to give a row."""
            return sum(acceptance**place for place in range(length + 1)) / _cost(costs, length, further)

        gain, further = (_GAIN_OF_ROWS, _FURTHER_OF_ROWS) if self._several else (_GAIN, _FURTHER)
        best = max(range(1, min(LONGEST, 2 * max(costs)) + 1), key=rate)
        return best if rate(best) > gain * rate(0) else 0


def _typical(times: Sequence[float]) -> float:
    """Return the mean of times, of which none counts more than twice the median: something else took the core."""
    most = 2 * median(times)
    return fmean(min(time, most) for time in times)


def _cost(known: Mapping[int, float], length: int, further: float) -> float:
    """Return the cost of a length from those of others, 0 among them; `further` of the slope goes on beyond them."""
    if length in known:
        return known[length]
    tried = sorted(known)
    below = max(other for other in tried if other < length)
    above = min((other for other in tried if other > length), default=None)
    if above is not None:
        slope = (known[above] - known[below]) / (above - below)
    else:
        before = tried[-2]
        slope = further * max(0.0, known[below] - known[before]) / (below - before)
    return known[below] + slope * (length - below)

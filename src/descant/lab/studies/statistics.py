"""Intervals and tests for scores of the same tasks under several methods.

Tasks of one group (questions about one person, seeds of one prompt) are not independent, so groups are resampled and
groups change sign, never single scores. Where every score is its own group these are the usual paired bootstrap and
the usual sign-flip test, which for right and wrong answers is McNemar's exact test.
"""

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from descant.checks import number, whole
from descant.errors import SettingsError

Floats = NDArray[np.float64]
Scores = Sequence[float] | Floats

DRAWS = 10_000
"""Resamples by default: the ends of a 95% interval then move by about a fiftieth of its width from seed to seed."""

_BLOCK = 1 << 22
"""Counts that are drawn at once: 32 MiB."""


@dataclass(frozen=True)
class Interval:
    """A figure and the bootstrap's percentile interval around it; NaN where nothing was scored.

    Attributes
    ----------
    value
        The figure itself, over all scores.
    low, high
        The ends of the interval.
    """

    value: float
    low: float
    high: float


def mean_interval(
    scores: Scores,
    groups: Sequence[Hashable] | None = None,
    *,
    level: float = 0.95,
    draws: int = DRAWS,
    seed: int = 0,
) -> Interval:
    """Return a mean with its percentile bootstrap interval (Efron 1979).

    Parameters
    ----------
    scores
        One score a task, shape [n].
    groups
        The group of each; None: every score is its own.
    level
        How often such intervals hold the true mean, about.
    draws
        How many resamples.
    seed
        Makes the interval repeatable. Methods on the same groups get the same resamples.

    Raises
    ------
    SettingsError
        If a setting is out of its range, or there are more or fewer groups than scores.
    """
    totals, sizes = _by_group(np.asarray(scores, dtype=np.float64), groups)
    return _interval(totals, sizes, level, draws, seed)


def difference_interval(
    scores: Scores,
    base: Scores,
    groups: Sequence[Hashable] | None = None,
    *,
    level: float = 0.95,
    draws: int = DRAWS,
    seed: int = 0,
) -> Interval:
    """Return the mean difference of two methods' scores of the same tasks, with its paired bootstrap interval.

    The arguments are those of `mean_interval`; `base` holds the scores that `scores` are compared with, in their order.
    """
    return mean_interval(_differences(scores, base), groups, level=level, draws=draws, seed=seed)


def statistic_interval(
    statistic: Callable[[Sequence[int]], float],
    count: int,
    groups: Sequence[Hashable] | None = None,
    *,
    level: float = 0.95,
    draws: int = 200,
    seed: int = 0,
) -> Interval:
    """Return a figure of a whole corpus with its bootstrap interval over the corpus' texts.

    Parameters
    ----------
    statistic
        The figure of the texts at some indices; an index may occur several times.
    count
        How many texts there are.
    groups, level, draws, seed
        As in `mean_interval`; few draws, as each computes the statistic anew.
    """
    _check(level, draws)
    members: dict[Hashable, list[int]] = {}
    for index, group in enumerate(_groups(groups, count)):
        members.setdefault(group, []).append(index)
    indices = list(members.values())
    rng = np.random.default_rng(seed)
    figures = [
        statistic([index for place in rng.integers(len(indices), size=len(indices)) for index in indices[place]])
        for _ in range(draws if count else 0)
    ]
    value = statistic(range(count)) if count else math.nan
    return Interval(value, *_ends(np.asarray(figures, dtype=np.float64), level))


def paired_test(
    scores: Scores,
    base: Scores,
    groups: Sequence[Hashable] | None = None,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> float:
    """Return the two-sided p-value of a mean difference, by flipping the signs of groups (Fisher 1935).

    Under the null hypothesis the two methods are exchangeable within each group, so every group's difference could as
    well have had the other sign. The test is exact where the differences that are not zero are equally large, as those
    of right and wrong answers are (`mcnemar`), and where all flips can be tried; otherwise `draws` flips are drawn, and
    the observed one is counted among them (Phipson and Smyth 2010), so that p is never 0.
    """
    _check(0.95, draws)
    totals, _ = _by_group(_differences(scores, base), groups)
    totals = totals[totals != 0]
    sizes = np.abs(totals)
    if not len(totals) or np.all(sizes == sizes[0]):
        return mcnemar(int((totals > 0).sum()), int((totals < 0).sum()))
    least = abs(totals.sum()) * (1 - 1e-12)  # sums of the same numbers differ by rounding
    if 2 ** len(totals) <= draws:
        places = np.arange(2 ** len(totals))[:, None] >> np.arange(len(totals)) & 1
        return float(np.mean(np.abs((1 - 2 * places) @ totals) >= least))
    rng = np.random.default_rng(seed)
    extreme = sum(
        int((np.abs((1 - 2 * rng.integers(2, size=(rows, len(totals)), dtype=np.int8)) @ totals) >= least).sum())
        for rows in _blocks(draws, len(totals))
    )
    return (extreme + 1) / (draws + 1)


def mcnemar(won: int, lost: int) -> float:
    """Two-sided exact McNemar test: how likely so uneven a split is if wins and losses are equally likely."""
    n = won + lost
    tail = sum(math.comb(n, k) for k in range(min(won, lost) + 1))
    return min(1.0, float(2 * tail / 2**n))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for how many there are (Holm 1979), in their order.

    Calling those below 0.05 real is wrong about any of them with probability 0.05 at most, however they depend on each
    other.
    """
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, place in enumerate(order):
        largest = max(largest, (len(p_values) - rank) * p_values[place])
        corrected[place] = min(1.0, largest)
    return corrected


def _interval(totals: Floats, sizes: Floats, level: float, draws: int, seed: int) -> Interval:
    """Bootstrap the ratio of two sums over groups: the mean of all members of the groups drawn."""
    _check(level, draws)
    count = len(totals)
    if not count:
        return Interval(math.nan, math.nan, math.nan)
    rng = np.random.default_rng(seed)
    means: list[Floats] = []
    for rows in _blocks(draws, count):
        drawn = rng.integers(count, size=(rows, count), dtype=np.int32)
        means.append(totals[drawn].sum(axis=1) / sizes[drawn].sum(axis=1))
    return Interval(float(totals.sum() / sizes.sum()), *_ends(np.concatenate(means), level))


def _ends(figures: Floats, level: float) -> tuple[float, float]:
    if not len(figures):
        return math.nan, math.nan
    low, high = np.quantile(figures, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _by_group(scores: Floats, groups: Sequence[Hashable] | None) -> tuple[Floats, Floats]:
    """Return for every group the sum of its scores and their number, in order of first occurrence."""
    place: dict[Hashable, int] = {}
    member = np.array([place.setdefault(group, len(place)) for group in _groups(groups, len(scores))], dtype=np.intp)
    totals, sizes = np.zeros(len(place)), np.zeros(len(place))
    np.add.at(totals, member, scores)
    np.add.at(sizes, member, 1.0)
    return totals, sizes


def _groups(groups: Sequence[Hashable] | None, count: int) -> Sequence[Hashable]:
    if groups is None:
        return range(count)
    if len(groups) != count:
        raise SettingsError(f"there are {count} scores and {len(groups)} groups; give each score its group")
    return groups


def _differences(scores: Scores, base: Scores) -> Floats:
    if len(scores) != len(base):
        raise SettingsError(
            f"{len(scores)} scores are compared with {len(base)}; give both methods' scores of the same tasks"
        )
    return np.asarray(scores, dtype=np.float64) - np.asarray(base, dtype=np.float64)


def _blocks(draws: int, count: int) -> list[int]:
    """Cut draws of `count` numbers each into blocks that bound the memory."""
    rows = max(1, _BLOCK // max(1, count))
    return [min(rows, draws - start) for start in range(0, draws, rows)]


def _check(level: float, draws: int) -> None:
    number("level", level, lambda x: 0 < x < 1, "use a number between 0 and 1, such as 0.95")
    whole("draws", draws, 1, "draw at least once")

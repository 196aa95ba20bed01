"""Intervals and tests against scipy, closed forms and naive loops."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from descant.errors import SettingsError
from descant.lab.studies.statistics import (
    difference_interval,
    holm,
    mcnemar,
    mean_interval,
    paired_test,
    statistic_interval,
)

SCORES = np.random.default_rng(1).exponential(size=80)
BASE = SCORES + np.random.default_rng(2).normal(0.1, 0.5, size=80)


def test_the_interval_is_scipys_percentile_bootstrap() -> None:
    found = mean_interval(SCORES.tolist(), draws=20_000)
    peer = stats.bootstrap((SCORES,), np.mean, n_resamples=20_000, method="percentile", rng=3).confidence_interval
    assert found.value == pytest.approx(SCORES.mean())
    width = peer.high - peer.low
    assert [found.low, found.high] == pytest.approx([peer.low, peer.high], abs=0.04 * width)


def test_a_difference_is_paired() -> None:
    found = difference_interval(SCORES.tolist(), BASE.tolist(), draws=20_000)
    peer = stats.bootstrap(
        (SCORES, BASE),
        lambda x, y, axis: (x - y).mean(axis=axis),
        paired=True,
        n_resamples=20_000,
        method="percentile",
        rng=3,
    ).confidence_interval
    assert found.value == pytest.approx(SCORES.mean() - BASE.mean())
    assert [found.low, found.high] == pytest.approx([peer.low, peer.high], abs=0.04 * (peer.high - peer.low))


def test_groups_are_resampled_whole() -> None:
    """Ten copies of each score are no more evidence than one: the interval does not narrow."""
    copies = np.repeat(SCORES, 10).tolist()
    groups = [place // 10 for place in range(len(copies))]
    alone, grouped, naive = mean_interval(SCORES.tolist()), mean_interval(copies, groups), mean_interval(copies)
    assert (grouped.low, grouped.high) == pytest.approx((alone.low, alone.high), rel=1e-12)
    assert naive.high - naive.low < 0.4 * (alone.high - alone.low)


def test_a_mean_over_groups_of_different_sizes_weighs_scores_alike() -> None:
    found = mean_interval([1.0, 1.0, 1.0, 0.0], ["a", "a", "a", "b"])
    assert (found.value, found.low, found.high) == (0.75, 0.0, 1.0)


def test_a_statistic_of_indices_has_the_same_interval() -> None:
    groups = [place // 4 for place in range(80)]
    mean = mean_interval(SCORES.tolist(), groups, draws=4000)
    found = statistic_interval(lambda chosen: float(np.mean(SCORES[list(chosen)])), 80, groups, draws=4000)
    assert found.value == pytest.approx(mean.value)
    assert [found.low, found.high] == pytest.approx([mean.low, mean.high], abs=0.06 * (mean.high - mean.low))


def test_intervals_repeat_and_depend_on_the_seed() -> None:
    scores = SCORES.tolist()
    assert mean_interval(scores, seed=5) == mean_interval(scores, seed=5)
    assert mean_interval(scores, seed=5) != mean_interval(scores, seed=6)


def test_nothing_scored_is_nan() -> None:
    for found in (mean_interval([]), statistic_interval(lambda chosen: 1 / 0, 0)):
        assert all(math.isnan(end) for end in (found.value, found.low, found.high))


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 4)), max_size=9))
def test_few_groups_are_flipped_in_all_ways(pairs: list[tuple[int, int]]) -> None:
    totals = [sum(d for d, g in pairs if g == group) for group in {g for _, g in pairs}]
    flips = itertools.product((1, -1), repeat=len(totals))
    sums = [abs(sum(s * t for s, t in zip(signs, totals, strict=True))) for signs in flips]
    exact = sum(s >= abs(sum(totals)) for s in sums) / len(sums)
    found = paired_test([float(d) for d, _ in pairs], [0.0] * len(pairs), [g for _, g in pairs])
    assert found == pytest.approx(exact)


def test_many_differences_are_flipped_as_by_scipy() -> None:
    found = paired_test(SCORES.tolist(), BASE.tolist(), draws=40_000)
    peer = stats.permutation_test(
        (SCORES, BASE),
        lambda x, y, axis: (x - y).mean(axis=axis),
        permutation_type="samples",
        n_resamples=40_000,
        rng=1,
    ).pvalue
    assert found == pytest.approx(peer, rel=0.15)


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 30))
def test_right_and_wrong_answers_are_compared_by_mcnemar(won: int, lost: int, same: int) -> None:
    scores = [1.0] * won + [0.0] * lost + [1.0] * same
    base = [0.0] * won + [1.0] * lost + [1.0] * same
    peer = stats.binomtest(won, won + lost).pvalue if won + lost else 1.0
    assert mcnemar(won, lost) == pytest.approx(peer)
    assert paired_test(scores, base) == pytest.approx(peer)


def test_false_alarms_are_as_rare_as_the_level_says() -> None:
    rng = np.random.default_rng(4)
    tests = [paired_test(rng.normal(size=30).tolist(), [0.0] * 30, draws=400, seed=s) for s in range(400)]
    # Binomial(400, 0.05): above 36 with probability 3e-4.
    assert 6 <= sum(p <= 0.05 for p in tests) <= 36


def test_holm_is_its_definition() -> None:
    assert holm([]) == []
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0.001, 0.999))
def test_holm_rejects_step_by_step(p_values: list[float], level: float) -> None:
    """The procedure of the paper: test the smallest at level/m, the next at level/(m−1), stop at the first kept."""
    rejected = set()
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if (len(p_values) - rank) * p_values[place] > level:
            break
        rejected.add(place)
    assert {place for place, p in enumerate(holm(p_values)) if p <= level} == rejected


@pytest.mark.parametrize(
    "call",
    [
        lambda: mean_interval([1.0], level=1.0),
        lambda: mean_interval([1.0], draws=0),
        lambda: mean_interval([1.0], ["a", "b"]),
        lambda: difference_interval([1.0], [1.0, 2.0]),
        lambda: paired_test([1.0], []),
    ],
)
def test_bad_calls_are_refused(call: object) -> None:
    with pytest.raises(SettingsError):
        call()  # type: ignore[operator]

"""Drawing with `random.Random.random` alone: Python guarantees its sequence, so a seed means the same everywhere."""

from bisect import bisect
from collections.abc import Iterable, Sequence
from itertools import accumulate
from random import Random
from typing import TypeVar

T = TypeVar("T")


def choose(items: Sequence[T], rng: Random) -> T:
    """Draw one item uniformly."""
    return items[int(rng.random() * len(items))]


def weighted(items: Sequence[T], weights: Iterable[float], rng: Random) -> T:
    """Draw one item with a probability proportional to its weight."""
    total = list(accumulate(weights))
    return items[min(bisect(total, rng.random() * total[-1]), len(items) - 1)]


def in_order(items: Sequence[T], weights: Iterable[float], rng: Random) -> list[T]:
    """Draw all items one by one without replacement, each time by their weights (Plackett and Luce)."""
    # The race of exponential clocks: the least of u^(-1/w) comes first.
    keys = [(1.0 - rng.random()) ** (-1 / weight) for weight in weights]
    return [items[index] for index in sorted(range(len(items)), key=keys.__getitem__)]


def zipf(count: int, exponent: float) -> list[float]:
    """Weights of ranks 1 to `count`."""
    return [rank**-exponent for rank in range(1, count + 1)]

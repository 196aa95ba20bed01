"""Checks of single settings: each returns the value in its plain type, or refuses it in one line."""

import math
import operator
from collections.abc import Callable
from numbers import Real

from descant.errors import SettingsError

_SHOWN = 80
"""Characters of a refused value that a message shows."""


def shown(value: object) -> str:
    """Return a value as a message shows it: in one line, cut where it is long; of a model the name of its class."""
    if hasattr(type(value), "named_modules"):  # its representation is a tree of all its layers
        return type(value).__name__
    text = " ".join(repr(value).split())
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def number(name: str, value: object, allowed: Callable[[float], bool], remedy: str) -> float:
    """Return a setting as a float, or raise if it is no number or not an allowed one.

    Parameters
    ----------
    name
        How the message calls the setting, such as `"TopP.p"`.
    value
        What was given.
    allowed
        Whether a value can be used; must be false for NaN.
    remedy
        What to do instead, in the imperative.
    """
    if not isinstance(value, bool) and isinstance(value, Real):
        try:
            real = float(value)
        except OverflowError:  # a whole number or fraction beyond every float
            real = math.nan
        if allowed(real):
            return real
    raise SettingsError(f"{name} is {shown(value)}; {remedy}")


def whole(name: str, value: object, least: float, remedy: str, *, most: float = math.inf) -> int:
    """Return a setting as an int, or raise if it is no whole number, below `least` or above `most`."""
    if not isinstance(value, bool) and hasattr(value, "__index__"):
        try:
            integer = operator.index(value)
        except TypeError:  # an array, or a class
            integer = None
        if integer is not None and least <= integer <= most:
            return integer
    raise SettingsError(f"{name} is {shown(value)}; {remedy}")


def flag(name: str, value: object, remedy: str = "give True or False") -> bool:
    """Return a setting that is a bool, or raise."""
    if isinstance(value, bool):
        return value
    raise SettingsError(f"{name} is {shown(value)}; {remedy}")


def kept(name: str, value: object) -> int:
    """Return the `min_tokens_to_keep` of the part called `name` as an int, or raise."""
    return whole(f"{name}.min_tokens_to_keep", value, 1, "keep at least 1 token")


def plausibility(name: str, value: object) -> float:
    """Return the α of a plausibility head as a float, or raise."""
    remedy = "use a number above 0 and at most 1 (0.1 is usual, 1 is greedy decoding)"
    return number(name, value, lambda x: 0 < x <= 1, remedy)

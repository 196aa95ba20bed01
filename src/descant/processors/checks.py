"""Checks that the processors' settings share."""

import operator
from collections.abc import Callable
from numbers import Real

from descant.errors import SettingsError


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
    if isinstance(value, bool) or not isinstance(value, Real) or not allowed(float(value)):
        raise SettingsError(f"{name} is {value!r}; {remedy}")
    return float(value)


def whole(name: str, value: object, least: int, remedy: str) -> int:
    """Return a setting as an int, or raise if it is no whole number or below `least`."""
    if not isinstance(value, bool) and hasattr(value, "__index__"):
        integer = operator.index(value)
        if integer >= least:
            return integer
    raise SettingsError(f"{name} is {value!r}; {remedy}")


def token_id(name: str, value: object) -> int:
    """Return a token id as an int, or raise."""
    return whole(name, value, 0, "give token ids: whole numbers from 0")


def kept(name: str, value: object) -> int:
    """Return a truncation's `min_tokens_to_keep` as an int, or raise."""
    return whole(f"{name}.min_tokens_to_keep", value, 1, "keep at least 1 token")

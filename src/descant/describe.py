"""Settings as plain data, so that every result records what made it."""

import dataclasses
import math
import re
from collections.abc import Mapping
from functools import partial
from typing import Any

_LISTED = 64
"""The most numbers of a tensor that are listed; of a larger one the shape is recorded."""


def describe(value: Any) -> Any:
    """Return settings as something JSON can hold, the same in every process.

    A dataclass becomes its name and its fields, any other object its class's name and its attributes; objects
    among those attributes (a model, say) are named only. Arrays are listed if they are small.
    """
    return _describe(value, attributes=True)


def _describe(value: Any, *, attributes: bool) -> Any:
    inner = partial(_describe, attributes=attributes)
    if value is None or isinstance(value, (str, int, float)):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: inner(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"name": type(value).__name__, **fields}
    if isinstance(value, Mapping):
        return {_text(str(key)): inner(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [inner(item) for item in value]
    return _describe_object(value, attributes=attributes)


def _describe_object(value: Any, *, attributes: bool) -> Any:
    if hasattr(value, "tolist") and hasattr(value, "shape"):
        if math.prod(value.shape) <= _LISTED:
            return describe(value.tolist())
        return {"name": type(value).__name__, "shape": list(value.shape), "dtype": str(value.dtype)}
    kind: Any = type(value)
    held = getattr(value, "__dict__", {})
    if hasattr(value, "__qualname__") or (not held and kind.__repr__ is not object.__repr__):
        return _text(repr(value))  # a class or a function; a dtype, a path
    described = {name: _describe(held[name], attributes=False) for name in held if attributes and name != "name"}
    return {"name": kind.__name__, **described}


def _text(text: str) -> str:
    """Leave the addresses out of a printed object."""
    return re.sub(r" at 0x[0-9A-Fa-f]+", "", text)

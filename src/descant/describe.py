"""Settings as plain data, so that every result records what made it."""

import dataclasses
from typing import Any


def describe(value: Any) -> Any:
    """Return settings as something JSON can hold: a dataclass becomes its name and its fields."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: describe(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"name": type(value).__name__, **fields}
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    if isinstance(value, dict):
        return {str(key): describe(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [describe(item) for item in value]
    return repr(value)

"""Worlds whose truth is known, generated from a seed: each makes a corpus to learn from, tasks, and their judge."""

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any

from descant.errors import SettingsError
from descant.evaluation.tasks import TaskSet

WORLDS: Mapping[str, Callable[..., TaskSet]] = MappingProxyType({})
"""What makes each world, by the name that a study file has for it."""


def load_world(name: str, /, **settings: Any) -> TaskSet:
    """Return the world of that name.

    Parameters
    ----------
    name
        One of `WORLDS`.
    settings
        Its settings; the world's own defaults otherwise.

    Raises
    ------
    SettingsError
        If there is no such world, or it has no such setting.
    """
    if name not in WORLDS:
        close = get_close_matches(name, WORLDS, n=1)
        remedy = (
            f"did you mean {close[0]!r}?" if close else f"choose from {', '.join(WORLDS) or 'none'}, or give a file"
        )
        raise SettingsError(f"there is no world {name!r}; {remedy}")
    try:
        return WORLDS[name](**settings)
    except TypeError as error:
        raise SettingsError(f"world {name!r} cannot be made so ({error}); drop or mend its settings") from error

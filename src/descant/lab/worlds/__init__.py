"""Worlds whose truth is known, generated from a seed: each makes a corpus to learn from, tasks, and their judge."""

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any

from descant.errors import SettingsError
from descant.lab.worlds.arithmetic import Arithmetic
from descant.lab.worlds.base import TaskWorld
from descant.lab.worlds.grammar import Grammar
from descant.lab.worlds.rumour import Rumour

__all__ = ["WORLDS", "Arithmetic", "Grammar", "Rumour", "TaskWorld", "load_world"]

WORLDS: Mapping[str, Callable[..., TaskWorld]] = MappingProxyType(
    {"rumour": Rumour, "grammar": Grammar, "arithmetic": Arithmetic}
)
"""What makes each world, by name; the settings are keyword arguments."""


def load_world(name: str, /, **settings: Any) -> TaskWorld:
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
        remedy = f"did you mean {close[0]!r}?" if close else f"choose from {', '.join(WORLDS)}, or give a file"
        raise SettingsError(f"there is no world {name!r}; {remedy}")
    try:
        return WORLDS[name](**settings)
    except TypeError as error:
        raise SettingsError(f"world {name!r} cannot be made so ({error}); drop or mend its settings") from error

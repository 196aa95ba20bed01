"""What a part's settings are called outside the library: by the command line, and in the words that describe a method.

A part declares them where it has the setting: `k: int = option("top_k", "Keep the N best tokens.", of="N")`.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import MISSING, dataclass
from typing import Any

_KEY = "option"


@dataclass(frozen=True)
class Option:
    """What one setting is called.

    Attributes
    ----------
    name
        Of the option.
    text
        Its explanation, the default included; empty: no option sets it, and it is mentioned by this name alone.
    of
        What stands for its value: `"N"`, a whole number; `"X"`, a number; or words.
    words
        Values by the words that stand for them, where they are words.
    quiet
        Whether it is left out of a method's description where it has its default.
    """

    name: str
    text: str = ""
    of: str = "X"
    words: Mapping[str, Any] | None = None
    quiet: bool = False


def option(
    name: str,
    text: str = "",
    *,
    default: Any = MISSING,
    of: str = "X",
    words: Mapping[str, Any] | None = None,
    quiet: bool = False,
) -> Any:
    """Return the field of a setting that is an option (see `Option`), as `dataclasses.field` does."""
    return dataclasses.field(default=default, metadata={_KEY: Option(name, text, of, words, quiet)})


def options(part: Any) -> dict[str, Option]:
    """Return the options of a part, or of its class, by the names of their fields."""
    return {field.name: field.metadata[_KEY] for field in dataclasses.fields(part) if _KEY in field.metadata}


def parts(package: Any, base: Any) -> list[Any]:
    """Return the parts of a kind that a package exports."""
    exported = (getattr(package, name) for name in package.__all__)
    return [
        each
        for each in exported
        if isinstance(each, type) and issubclass(each, base) and dataclasses.is_dataclass(each)
    ]


def changed(part: Any, given: Mapping[str, Any]) -> tuple[Any, frozenset[str]]:
    """Return a part with those options set that it has, or a part that it holds; and which these are.

    Parameters
    ----------
    part
        A frozen dataclass.
    given
        Values by the names of options.
    """
    known = {field: option.name for field, option in options(part).items() if option.text}
    changes = {field: given[name] for field, name in known.items() if name in given}
    used = {known[field] for field in changes}
    for field in dataclasses.fields(part):
        inner = getattr(part, field.name)
        if dataclasses.is_dataclass(inner) and not isinstance(inner, type):
            inner, of_inner = changed(inner, given)
            if of_inner:
                changes[field.name] = inner
                used |= of_inner
    return (dataclasses.replace(part, **changes) if changes else part), frozenset(used)


def in_words(part: Any) -> list[str]:
    """Return a part's settings in a few words each, such as `top-k 50`; those of a part that it holds come after."""
    found = []
    held = options(part)
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        if field.name in held:
            setting = held[field.name]
            if value is not None and not (setting.quiet and value == field.default):
                found.append(f"{setting.name.replace('_', '-')} {_word(setting, value)}")
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            found += in_words(value)
    return found


def _word(setting: Option, value: Any) -> str:
    for word, meant in (setting.words or {}).items():
        if meant is value or meant == value:
            return word
    return f"{value:g}" if isinstance(value, (int, float)) and not isinstance(value, bool) else str(value)

"""Methods from a study file: parts by the name of their class, with arguments."""

from collections.abc import Mapping
from difflib import get_close_matches
from inspect import isabstract
from typing import Any

import descant.processors
import descant.scoring
import descant.sources
import descant.strategies
from descant.errors import SettingsError
from descant.processors import Processor
from descant.scoring import Scoring
from descant.sources import Amateur, EarlyExit
from descant.strategies import Greedy, PromptLookup, Sample, Strategy

Spec = str | Mapping[str, Any]
"""`Greedy`, or `{Beam: {width: 4}}`."""

_KINDS: Mapping[str, tuple[Any, type]] = {
    "scoring": (descant.scoring, Scoring),
    "processor": (descant.processors, Processor),
    "strategy": (descant.strategies, Strategy),
    "amateur": (descant.sources, Amateur),
}


def build(kind: str, spec: Spec) -> Any:
    """Return the part that a study file describes.

    Parameters
    ----------
    kind
        `"scoring"`, `"processor"`, `"strategy"` or `"amateur"`.
    spec
        Its name, or its name with its arguments. Arguments that are parts themselves (`WhenUncertain.scoring`,
        `Speculative.base`, `Speculative.draft`) are given alike.

    Raises
    ------
    SettingsError
        If there is no such part, or an argument is wrong.
    """
    module, base = _KINDS[kind]
    known = {name: value for name, value in vars(module).items() if isinstance(value, type) and issubclass(value, base)}
    return _make(kind, {name: value for name, value in known.items() if not isabstract(value)}, spec)


def build_amateur(spec: Spec) -> Any:
    """Return an amateur other than a loaded model: a checkpoint's name as it is, or a setting such as `EarlyExit`."""
    return spec if isinstance(spec, str) else build("amateur", spec)


def _make(what: str, known: Mapping[str, Any], spec: Spec) -> Any:
    if isinstance(spec, Mapping) and len(spec) != 1:
        raise SettingsError(f"a {what} is one name with its arguments, and this names {len(spec)}: {dict(spec)}")
    name, arguments = (spec, None) if isinstance(spec, str) else next(iter(spec.items()))
    if name not in known:
        close = get_close_matches(name, known, n=1)
        remedy = f"did you mean {close[0]!r}?" if close else f"choose from {', '.join(known)}"
        raise SettingsError(f"there is no {what} {name!r}; {remedy}")
    if not isinstance(arguments, Mapping | None):
        raise SettingsError(f"{name}'s arguments are {arguments!r}; name them: {{{name}: {{argument: value}}}}")
    try:
        return known[name](**{key: _argument(what, key, value) for key, value in (arguments or {}).items()})
    except TypeError as error:
        raise SettingsError(f"{name} cannot be made so ({error}); drop or mend its arguments") from error


def _argument(what: str, key: str, value: Any) -> Any:
    """Return an argument, made first if it is a part itself."""
    if what == "scoring" and key == "scoring":
        return build("scoring", value)
    if what == "strategy" and key == "base":
        return _make("base", {"Greedy": Greedy, "Sample": Sample}, value)
    if what == "strategy" and key == "draft":
        return _make("draft", {"PromptLookup": PromptLookup, "EarlyExit": EarlyExit}, value)
    return value

"""From the options to a method: a preset, changed by the options that were given."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from descant.cli.options import RunOptions, flag
from descant.errors import UsageError
from descant.presets import Preset, preset
from descant.processors import (
    Epsilon,
    Eta,
    FrequencyPenalty,
    MinNewTokens,
    MinP,
    NoRepeatNGram,
    PresencePenalty,
    Processor,
    RepetitionPenalty,
    Temperature,
    TopK,
    TopNSigma,
    TopP,
    Typical,
    canonical_order,
)
from descant.scoring import Contrastive
from descant.strategies import Greedy, Sample

_CONTRAST = frozenset({"alpha", "beta", "amateur_temperature", "candidates"})
_SAMPLING: Mapping[str, Callable[[Any], Processor]] = {
    "temperature": Temperature,
    "top_k": TopK,
    "top_p": TopP,
    "min_p": MinP,
    "typical_p": Typical,
    "epsilon": Epsilon,
    "eta": Eta,
    "top_n_sigma": TopNSigma,
}
_PENALTIES: Mapping[str, Callable[[Any], Processor]] = {
    "repetition_penalty": RepetitionPenalty,
    "presence_penalty": PresencePenalty,
    "frequency_penalty": FrequencyPenalty,
    "no_repeat_ngram": NoRepeatNGram,
    "min_new_tokens": MinNewTokens,
}
_PARTS = {**_PENALTIES, **_SAMPLING}


@dataclass(frozen=True)
class Resolved:
    """A method with the options applied.

    Attributes
    ----------
    method
        The preset, changed.
    used
        The options that it honours.
    """

    method: Preset
    used: frozenset[str]

    @property
    def contrasts(self) -> bool:
        """Whether it reads an amateur."""
        return "amateur" in self.method.scoring.sources

    @property
    def samples(self) -> bool:
        """Whether it draws."""
        return isinstance(self.method.strategy, Sample)


def choose(name: str | None, given: Mapping[str, Any], *, has_amateur: bool) -> Resolved:
    """Return the method of one decode.

    Parameters
    ----------
    name
        A preset. None: contrastive with an amateur; else sampling if an option asks for it, or greedy.
    given
        The options that were given.
    has_amateur
        Whether there is something to contrast with.

    Raises
    ------
    UsageError
        If an option has no effect on the method, or a value is out of its range.
    """
    base = name
    if base is None:
        sampled = any(key in given for key in _SAMPLING) and given.get("temperature") != 0
        base = "contrastive" if has_amateur else "sample" if sampled else "greedy"
    resolved = apply(preset(base), given)
    if resolved.contrasts and not has_amateur:
        raise UsageError(f"{base} needs an amateur; give --amateur NAME, --amateur-layer N or --amateur-window N")
    refuse_unused(given, resolved.used, _reason(name))
    return resolved


def apply(base: Preset, given: Mapping[str, Any]) -> Resolved:
    """Change a preset by those options that can act on it; the others stay unused.

    Raises
    ------
    UsageError
        If `--temperature 0` meets a truncation, or a value is out of its range.
    """
    scoring, contrast = base.scoring, set[str]()
    if isinstance(scoring, Contrastive):
        contrast = {key for key in given if key in _CONTRAST}
        scoring = replace(scoring, **{key: given[key] for key in contrast})
    penalties = {key for key in given if key in _PENALTIES}
    sampling = {key for key in given if key in _SAMPLING}
    strategy = base.strategy
    parts = {type(part): part for part in base.processors}
    if given.get("temperature") == 0:
        _refuse_truncation(base, sampling - {"temperature"})
        strategy = Greedy()
    elif base.name == "greedy":
        sampling = set()
    elif sampling and not isinstance(strategy, Sample):
        strategy = Sample()
    for key in penalties | sampling:
        if (key, given[key]) != ("temperature", 0):
            part = _PARTS[key](given[key])
            parts[type(part)] = part
    method = replace(base, scoring=scoring, processors=canonical_order(parts.values()), strategy=strategy)
    return Resolved(method, frozenset(contrast | penalties | sampling))


def _refuse_truncation(base: Preset, sampling: set[str]) -> None:
    """Raise if greedy decoding, which `--temperature 0` means, would ignore something."""
    if sampling:
        names = " and ".join(flag(key) for key in sorted(sampling))
        raise UsageError(f"--temperature 0 is greedy, where {names} would have no effect; drop one of them")
    if base.processors:
        raise UsageError(f"--temperature 0 is greedy and --method {base.name} samples; drop one of them")


def refuse_unused(given: Iterable[str], used: Iterable[str], reason: str) -> None:
    """Raise if an option that was given acts on nothing."""
    unused = [flag(key) for key in given if key not in used]
    if unused:
        raise UsageError(f"{' and '.join(unused)} would have no effect: {reason}")


def settle_randomness(
    methods: Iterable[Resolved], run: RunOptions, rng: str | None, default_rng: str = "seeded"
) -> tuple[list[Resolved], int | None]:
    """Give every method that draws its random mode, and return the seed for all of them.

    A seed is drawn for transformers' mode, whose global generator would else begin the same in every process.
    """
    import secrets

    found = list(methods)
    if not any(entry.samples for entry in found):
        given = {"seed": run.seed, "rng": rng}
        asked = [name for name, value in given.items() if value is not None]
        refuse_unused(asked, (), "nothing is drawn; add --temperature 1 or another sampler")
        return found, None
    strategy = Sample(rng=rng or default_rng)  # type: ignore[arg-type]
    drawn = [
        replace(entry, method=replace(entry.method, strategy=strategy)) if entry.samples else entry for entry in found
    ]
    return drawn, secrets.randbits(32) if run.seed is None else run.seed


def settings(method: Preset) -> str:
    """Return a method's settings in a few words, such as `alpha 0.1, top-k 50`."""
    words = []
    if isinstance(method.scoring, Contrastive):
        for key in ("alpha", "beta", "amateur_temperature", "candidates"):
            value = getattr(method.scoring, key)
            if value is not None and (key != "amateur_temperature" or value != 1):
                words.append(f"{key.replace('_', '-')} {value:g}")
    names = {kind: key for key, kind in _PARTS.items()}
    for part in method.processors:
        value = next(iter(vars(part).values()))
        words.append(f"{names[type(part)].replace('_', '-')} {value:g}")
    return ", ".join(words)


def _reason(asked: str | None) -> str:
    if asked is None:
        return "there is no amateur: give --amateur NAME, --amateur-layer N or --amateur-window N"
    return f"--method {asked} has nothing for it to change; leave it out, or choose another method"

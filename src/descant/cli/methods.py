"""From the options to a method: a preset, changed by the options that were given."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import descant.processors
import descant.strategies
from descant.cli.options import RunOptions, flag
from descant.errors import SettingsError, UsageError
from descant.options import Option, changed, in_words, options, parts
from descant.presets import PRESETS, Preset, preset
from descant.processors import Processor
from descant.processors.order import canonical_order
from descant.scoring import Likelihood
from descant.strategies import Greedy, Sample, Speculative, Strategy

_AMATEURS = "--amateur NAME, --amateur-layer N, --amateur-window N or --amateur-prompt TEXT"
NEEDS_AMATEUR = f"needs an amateur; give {_AMATEURS}"

_PROCESSORS: Mapping[str, type[Processor]] = {
    option.name: kind for kind in parts(descant.processors, Processor) for option in options(kind).values()
}
"""Which processor each option makes."""

_STRATEGIES: tuple[type[Strategy], ...] = tuple(kind for kind in parts(descant.strategies, Strategy) if options(kind))
"""Those that options change."""


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
        return self.method.strategy.random

    @property
    def amateur_drafts(self) -> bool:
        """Whether the amateur drafts for it."""
        drafting = self.method.strategy.drafting
        return drafting is not None and drafting.by_amateur

    @property
    def reads_amateur(self) -> bool:
        """Whether it needs the amateur at all."""
        return self.contrasts or self.amateur_drafts


def choose(name: str | None, given: Mapping[str, Any], *, has_amateur: bool) -> Resolved:
    """Return the method of one decode.

    Parameters
    ----------
    name
        A preset. None: contrastive with an amateur; else sampling, a beam search or a contrastive search if an option
        asks for it, or greedy.
    given
        The options that were given.
    has_amateur
        Whether there is something to contrast with.

    Raises
    ------
    UsageError
        If an option has no effect on the method, or a value is out of its range.
    """
    _refuse_rivals(given)
    base = name
    if base is None:
        asked = [kind for kind in _STRATEGIES if _of_strategy(kind, given)]
        sampled = any(map(_samples, given)) and given.get("temperature") != 0
        plain = _plain_preset(asked[0]) if asked else "greedy"
        base = "contrastive" if has_amateur else "sample" if sampled else plain
    resolved = apply(preset(base), given)
    if resolved.contrasts and not has_amateur:
        raise UsageError(f"{base} {NEEDS_AMATEUR}")
    refuse_unused(given, resolved.used, _reason(name))
    return resolved


def apply(base: Preset, given: Mapping[str, Any]) -> Resolved:
    """Change a preset by those options that can act on it; the others stay unused.

    Raises
    ------
    UsageError
        If `--temperature 0` meets a truncation, or a value is out of its range.
    """
    scoring, used = changed(base.scoring, given)
    strategy, of_strategies = _grow(base, given)
    made = {type(part): part for part in base.processors}
    for name in given:
        if name in _PROCESSORS and (not _samples(name) or name in of_strategies):
            used |= {name}
            if (name, given[name]) != ("temperature", 0):
                part = _PROCESSORS[name](given[name])  # type: ignore[call-arg]
                made[type(part)] = part
    method = replace(base, scoring=scoring, processors=canonical_order(made.values()), strategy=strategy)
    return Resolved(method, used | of_strategies)


def _grow(base: Preset, given: Mapping[str, Any]) -> tuple[Strategy, frozenset[str]]:
    """Return the strategy that the options make of a preset's, and those of them that it honours.

    Greedy decoding that is asked for by its name stays greedy.
    """
    strategy, used = base.strategy, set[str]()
    fixed = base.name == "greedy"
    sampling = {name for name in given if _samples(name)}
    over: Strategy | None = None
    if given.get("temperature") == 0:
        over = strategy.over(Greedy())
        if over is not None:
            _refuse_truncation(base, sampling - {"temperature"})
    elif sampling and not fixed:
        over = strategy if strategy.random else strategy.over(Sample())
    if over is not None:
        strategy, used = over, sampling
    for kind in _STRATEGIES:
        settings = _of_strategy(kind, given)
        grown = kind.in_place_of(strategy) if settings and not fixed else None
        if grown is not None:
            strategy = grown.with_options(settings)
            used |= set(settings)
    return strategy, frozenset(used)


def _samples(name: str) -> bool:
    """Tell whether an option asks for sampling: transformers applies those processors to nothing else."""
    return name in _PROCESSORS and _PROCESSORS[name].rank > 0


def _of_strategy(kind: type[Strategy], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of those options that a kind of strategy has."""
    return {
        option.name: _value(option, given[option.name]) for option in options(kind).values() if option.name in given
    }


def _value(option: Option, value: Any) -> Any:
    """Return what a word of the command line stands for."""
    if option.of == "N|auto" and value != "auto":
        if not str(value).isdecimal():
            raise UsageError(f"{flag(option.name)} is {value!r}; give a whole number from 1, or auto")
        return int(value)
    if option.words is None:
        return value
    if value not in option.words:
        *most, last = option.words
        raise UsageError(f"{flag(option.name)} is {value!r}; give {', '.join(most)} or {last}")
    return option.words[value]


def _plain_preset(kind: type[Strategy]) -> str:
    """Return the method that is a strategy and nothing else."""
    return next(
        entry.name for entry in PRESETS.values() if type(entry.strategy) is kind and entry.scoring == Likelihood()
    )


def speculate(resolved: Resolved, given: Mapping[str, Any], draft: Any) -> Resolved:
    """Change what drafts, and how many tokens; a method that does not speculate begins to, if any option asks for it.

    Parameters
    ----------
    given
        The options that were given, of those of speculation.
    draft
        What drafts, where an option names it; None for the amateur.
    """
    if not given:
        return resolved
    try:
        strategy = Speculative.in_place_of(resolved.method.strategy)
    except SettingsError as error:
        raise UsageError(f"{' and '.join(map(flag, given))} would have no effect: {error}") from error
    if strategy is None:
        raise UsageError(f"{' and '.join(map(flag, given))} would have no effect: nothing can draft for this method")
    changes = {} if draft is None else {"draft": draft}
    grown = replace(strategy, **changes).with_options(_of_strategy(Speculative, given))
    return replace(resolved, method=replace(resolved.method, strategy=grown))


def _refuse_rivals(given: Mapping[str, Any]) -> None:
    """Raise if one option asks for a way to grow that has no place for what another asks for."""
    growing = {name for kind in _STRATEGIES for name in _of_strategy(kind, given)}
    for kind in _STRATEGIES:
        own = _of_strategy(kind, given)
        rivals = [name for name in given if name not in own and (_samples(name) or name in growing)]
        if own and rivals and kind.in_place_of(Sample()) is None:
            raise UsageError(
                f"{' and '.join(map(flag, own))} asks for {_plain_preset(kind)}, beside which "
                f"{' and '.join(map(flag, rivals))} would have no effect; drop the one or the other"
            )


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

    def drawing(entry: Resolved) -> Resolved:
        speculative = entry.method.strategy.drafting is not None  # which cannot draw as transformers does
        mode = rng or ("seeded" if speculative else default_rng)
        strategy = entry.method.strategy.over(Sample(rng=mode))  # type: ignore[arg-type]
        assert strategy is not None, "what draws can draw in another way"
        return replace(entry, method=replace(entry.method, strategy=strategy))

    drawn = [drawing(entry) if entry.samples else entry for entry in found]
    return drawn, secrets.randbits(32) if run.seed is None else run.seed


def settings(method: Preset) -> str:
    """Return a method's settings in a few words, such as `alpha 0.1, top-k 50`."""
    return ", ".join(word for part in (method.scoring, *method.processors, method.strategy) for word in in_words(part))


def _reason(asked: str | None) -> str:
    if asked is None:
        return f"there is no amateur: give {_AMATEURS}"
    return f"--method {asked} has nothing for it to change; leave it out, or choose another method"

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
from descant.scoring import Scoring, WhenUncertain
from descant.strategies import Beam, ContrastiveSearch, Greedy, Sample, Speculative, Strategy, TokenStrategy

_AMATEURS = "--amateur NAME, --amateur-layer N, --amateur-window N or --amateur-prompt TEXT"
NEEDS_AMATEUR = f"needs an amateur; give {_AMATEURS}"

_CONTRAST: Mapping[str, str] = {
    "alpha": "alpha",
    "beta": "beta",
    "amateur_temperature": "amateur_temperature",
    "candidates": "candidates",
    "guidance_scale": "scale",
}
"""Which field of a scoring each option sets, where the scoring has it."""

_SHOWN = ("layers", "layer", "threshold", *_CONTRAST.values(), "top_p")
"""The settings of scorings that are worth a mention."""

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
_BEAMS: Mapping[str, str] = {
    "beams": "width",
    "length_penalty": "length_penalty",
    "early_stopping": "early_stopping",
    "beam_groups": "groups",
    "diversity": "diversity",
}
"""What `Beam` calls them."""

_SEARCH: Mapping[str, str] = {"search_candidates": "k", "search_penalty": "penalty"}
"""What `ContrastiveSearch` calls them."""

_EARLY_STOPPING: Mapping[str, Any] = {"true": True, "false": False, "never": "never"}
_DIVERSITY = 0.5
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
        sampled = any(key in given for key in _SAMPLING) and given.get("temperature") != 0
        searched = "contrastive-search" if any(key in given for key in _SEARCH) else "greedy"
        plain = "beam" if any(key in given for key in _BEAMS) else searched
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
    contrast = {key for key in given if hasattr(_inner(base.scoring), _CONTRAST.get(key, ""))}
    scoring = _change(base.scoring, {_CONTRAST[key]: given[key] for key in contrast})
    penalties = {key for key in given if key in _PENALTIES}
    sampling = {key for key in given if key in _SAMPLING}
    strategy = base.strategy
    parts = {type(part): part for part in base.processors}
    if given.get("temperature") == 0 and not isinstance(strategy, ContrastiveSearch):
        _refuse_truncation(base, sampling - {"temperature"})
        strategy = strategy.over(Greedy())
    elif base.name == "greedy" or isinstance(strategy, ContrastiveSearch):
        sampling = set()
    elif sampling and not strategy.random:
        strategy = strategy.over(Sample())
    fixed = base.name == "greedy" or isinstance(strategy, (Speculative, ContrastiveSearch))
    beams = {key for key in given if key in _BEAMS and not fixed}
    if beams:
        strategy = _search(strategy, {key: given[key] for key in beams})
    greedy = base.name != "greedy" and isinstance(strategy, (Greedy, ContrastiveSearch))
    ahead = {key for key in given if key in _SEARCH and greedy}
    if ahead:
        search = strategy if isinstance(strategy, ContrastiveSearch) else ContrastiveSearch()
        strategy = replace(search, **{_SEARCH[key]: given[key] for key in ahead})
    for key in penalties | sampling:
        if (key, given[key]) != ("temperature", 0):
            part = _PARTS[key](given[key])
            parts[type(part)] = part
    method = replace(base, scoring=scoring, processors=canonical_order(parts.values()), strategy=strategy)
    return Resolved(method, frozenset(contrast | penalties | sampling | beams | ahead))


def _search(strategy: Strategy, given: Mapping[str, Any]) -> Beam:
    """Return a beam search that grows as a strategy does, changed by the options that were given."""
    if not isinstance(strategy, Beam):
        assert isinstance(strategy, TokenStrategy)
        strategy = Beam(base=strategy)
    changes = {_BEAMS[key]: value for key, value in given.items()}
    if "early_stopping" in given:
        if given["early_stopping"] not in _EARLY_STOPPING:
            raise UsageError(f"--early-stopping is {given['early_stopping']!r}; give true, false or never")
        changes["early_stopping"] = _EARLY_STOPPING[given["early_stopping"]]
    if given.get("beam_groups", 1) > 1 and not strategy.diversity:
        changes.setdefault("diversity", _DIVERSITY)
    return replace(strategy, **changes)


def _inner(scoring: Scoring) -> Scoring:
    """Return the scoring that options change: what `WhenUncertain` holds."""
    return scoring.scoring if isinstance(scoring, WhenUncertain) else scoring


def _change(scoring: Scoring, settings: Mapping[str, Any]) -> Scoring:
    if isinstance(scoring, WhenUncertain):
        return replace(scoring, scoring=_change(scoring.scoring, settings))
    changed: Scoring = replace(scoring, **settings)  # type: ignore[type-var]
    return changed


def speculate(resolved: Resolved, given: Mapping[str, Any], draft: Any) -> Resolved:
    """Change what drafts, and how many tokens; a method that does not speculate begins to, if any option asks for it.

    Parameters
    ----------
    given
        The options that were given, of those of speculation.
    draft
        What drafts, where an option names it; None for the amateur.
    """
    strategy = resolved.method.strategy
    if not given:
        return resolved
    if isinstance(strategy, Beam):
        raise UsageError(
            "speculation drafts for one sequence, and beams are several; drop the --draft options or --beams"
        )
    if isinstance(strategy, ContrastiveSearch):
        raise UsageError("speculation drafts one token, and a contrastive search compares several; drop one of them")
    if not isinstance(strategy, Speculative):
        assert isinstance(strategy, TokenStrategy)
        strategy = Speculative(strategy)
    changes: dict[str, Any] = {} if draft is None else {"draft": draft}
    if "draft_tokens" in given:
        tokens = given["draft_tokens"]
        if tokens != "auto" and not tokens.isdecimal():
            raise UsageError(f"--draft-tokens is {tokens!r}; give a whole number from 1, or auto")
        changes["tokens"] = tokens if tokens == "auto" else int(tokens)
    if "draft_confidence" in given:
        changes["confidence"] = given["draft_confidence"]
    return replace(resolved, method=replace(resolved.method, strategy=replace(strategy, **changes)))


def _refuse_rivals(given: Mapping[str, Any]) -> None:
    """Raise if one option asks for a contrastive search and another for a different way to grow."""
    ahead = [flag(key) for key in given if key in _SEARCH]
    others = [flag(key) for key in given if key in _SAMPLING or key in _BEAMS]
    if ahead and others:
        raise UsageError(
            f"{' and '.join(ahead)} asks for a contrastive search, which neither draws nor keeps beams; drop it, or "
            f"{' and '.join(others)}"
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
        return replace(entry, method=replace(entry.method, strategy=strategy))

    drawn = [drawing(entry) if entry.samples else entry for entry in found]
    return drawn, secrets.randbits(32) if run.seed is None else run.seed


def settings(method: Preset) -> str:
    """Return a method's settings in a few words, such as `alpha 0.1, top-k 50`."""
    words = []
    held = {**vars(_inner(method.scoring)), **vars(method.scoring)}
    for key in _SHOWN:
        value = held.get(key)
        if value is not None and (key != "amateur_temperature" or value != 1):
            words.append(f"{key.replace('_', '-')} {value if isinstance(value, str) else f'{value:g}'}")
    names = {kind: key for key, kind in _PARTS.items()}
    for part in method.processors:
        value = next(iter(vars(part).values()))
        words.append(f"{names[type(part)].replace('_', '-')} {value:g}")
    if isinstance(method.strategy, Speculative):
        words.append(f"drafts {method.strategy.tokens}")
    if isinstance(method.strategy, Beam):
        words += _beam_settings(method.strategy)
    if isinstance(method.strategy, ContrastiveSearch):
        words += [f"{key.replace('_', '-')} {getattr(method.strategy, name):g}" for key, name in _SEARCH.items()]
    return ", ".join(words)


def _beam_settings(strategy: Beam) -> list[str]:
    words = [f"beams {strategy.width}"]
    for key in ("length_penalty", "early_stopping", "beam_groups", "diversity"):
        value = getattr(strategy, _BEAMS[key])
        if value != getattr(Beam, _BEAMS[key]):
            words.append(f"{key.replace('_', '-')} {str(value).lower()}")
    return words


def _reason(asked: str | None) -> str:
    if asked is None:
        return f"there is no amateur: give {_AMATEURS}"
    return f"--method {asked} has nothing for it to change; leave it out, or choose another method"

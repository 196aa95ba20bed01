"""The settings of one call, checked."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from descant.checks import flag, shown, whole
from descant.errors import SettingsError
from descant.processors import Processor
from descant.scoring import Scoring
from descant.strategies import Strategy

_LEAST_SEED, _GREATEST_SEED = -(2**63), 2**64 - 1
"""What `torch.manual_seed` takes."""


@dataclass(frozen=True)
class Options:
    """What `Decoder.generate` and `Decoder.stream` were asked for; their docstring explains each."""

    scoring: Scoring | None
    processors: Sequence[Any] | None
    strategy: Strategy
    max_new_tokens: int
    stop: str | Sequence[str] | None
    ignore_eos: bool
    seed: int | None
    chat: bool
    system: str | None
    top_logprobs: int
    trace: bool
    batch_size: int

    def __post_init__(self) -> None:
        checked: dict[str, Any] = {
            "scoring": check_scoring(self.scoring),
            "processors": list_processors(self.processors),
            "stop": _list_stops(self.stop),
            "batch_size": check_batch_size(self.batch_size),
        }
        for name in ("max_new_tokens", "top_logprobs"):
            checked[name] = whole(name, getattr(self, name), 0, "give a whole number from 0")
        for name in ("ignore_eos", "chat", "trace"):
            checked[name] = flag(name, getattr(self, name))
        if self.seed is not None:
            remedy = "give a whole number from -2**63 to 2**64 - 1, or None to draw one"
            checked["seed"] = whole("seed", self.seed, _LEAST_SEED, remedy, most=_GREATEST_SEED)
        check_strategy(self.strategy)
        if self.system is not None and not isinstance(self.system, str):
            raise SettingsError(f"system is {shown(self.system)}; give text, or None")
        if self.system is not None and not self.chat:
            raise SettingsError("a system prompt is part of the chat template; give chat=True as well")
        for name, value in checked.items():
            object.__setattr__(self, name, value)


def check_scoring(scoring: Any) -> Scoring | None:
    """Return a scoring, or None where the decoder is to choose; raise `SettingsError` for anything else."""
    if scoring is None or isinstance(scoring, Scoring):
        return scoring
    raise SettingsError(f"{shown(scoring)} is not a scoring; give Contrastive() or Likelihood(), or None")


def check_strategy(strategy: Any) -> Strategy:
    """Return a strategy; raise `SettingsError` for anything else."""
    if isinstance(strategy, Strategy):
        return strategy
    raise SettingsError(f"{shown(strategy)} is not a strategy; give Greedy(), Sample(), Beam() or ContrastiveSearch()")


def check_batch_size(batch_size: Any) -> int:
    """Return a batch size as an int; raise `SettingsError` if it is none."""
    return whole("batch_size", batch_size, 1, "give a whole number from 1")


def list_processors(processors: Any) -> tuple[Any, ...]:
    """Return processors one by one, none for None; raise `SettingsError` if what was given is no list of them."""
    if processors is None:
        return ()
    if isinstance(processors, (Processor, str)) or not isinstance(processors, Iterable):
        raise SettingsError(f"processors is {shown(processors)}; give a list: [Temperature(0.7)]")
    return tuple(processors)


def _list_stops(stop: Any) -> tuple[str, ...]:
    if stop is None:
        return ()
    stops = (stop,) if isinstance(stop, str) else tuple(stop) if isinstance(stop, Iterable) else (stop,)
    if not all(isinstance(string, str) for string in stops):
        raise SettingsError(f"stop is {shown(stop)}; give a string or a list of strings")
    return stops

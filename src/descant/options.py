"""The settings of one call, checked."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from descant.errors import SettingsError
from descant.scoring import Scoring
from descant.strategies import Strategy


@dataclass(frozen=True)
class Options:
    """What `Decoder.generate` and `Decoder.stream` were asked for; their docstring explains each."""

    scoring: Scoring | None
    processors: tuple[Any, ...]
    strategy: Strategy
    max_new_tokens: int
    stop: str | Sequence[str]
    ignore_eos: bool
    seed: int | None
    chat: bool
    system: str | None
    top_logprobs: int
    trace: bool
    batch_size: int

    def __post_init__(self) -> None:
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
        object.__setattr__(self, "stop", stop)
        for name, least in (("max_new_tokens", 0), ("top_logprobs", 0), ("batch_size", 1)):
            value = getattr(self, name)
            if value < least:
                raise SettingsError(f"{name} is {value}; give at least {least}")
        if not isinstance(self.strategy, Strategy):
            raise SettingsError(f"{self.strategy!r} is not a strategy; give Greedy() or Sample()")

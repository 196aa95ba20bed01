"""Who competes in `descant compare`, and what each made of a prompt."""

import dataclasses
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from descant.cli.methods import NEEDS_AMATEUR, Resolved, apply, refuse_unused
from descant.cli.models import Plan, load_models
from descant.cli.options import RunOptions
from descant.cli.parity import generation_config, transformers_tokens
from descant.decoder import Decoder
from descant.errors import UsageError
from descant.presets import Preset, preset
from descant.results import Output

_WARM_UP_TOKENS = 4


@dataclass(frozen=True)
class Decoding:
    """What one method made of one prompt.

    Attributes
    ----------
    name
        The method, as `--methods` has it.
    output
        descant's result.
    seconds
        How long it took.
    same
        Whether transformers gives the same tokens; None where it lacks the method or the user stopped.
    transformers_tokens, transformers_seconds
        How many tokens transformers gave, and how long it took.
    """

    name: str
    output: Output
    seconds: float
    same: bool | None = None
    transformers_tokens: int = 0
    transformers_seconds: float = 0.0

    def describe(self) -> dict[str, Any]:
        """Return the run as plain data."""
        theirs = None
        if self.same is not None:
            rate = self.transformers_tokens / self.transformers_seconds
            theirs = {"same_tokens": self.same, "tokens_per_second": rate}
        return {
            "name": self.name,
            "text": self.output.text,
            "token_ids": self.output.token_ids,
            "finish_reason": self.output.finish_reason,
            "method": self.output.method,
            "timing": dataclasses.asdict(self.output.timing),
            **({} if self.output.score is None else {"score": self.output.score}),
            "transformers": theirs,
        }


@dataclass(frozen=True)
class Competitor:
    """A method with the models it runs on."""

    name: str
    decoder: Decoder
    method: Preset
    run: RunOptions
    seed: int | None

    def decode(self, prompt: str, arguments: Mapping[str, Any], stop: Callable[[], bool]) -> Decoding:
        """Decode a prompt here and, if it has the method, with transformers."""
        self._set_seed()
        start = time.perf_counter()
        [output] = self.decoder.generate(prompt, **self.method.arguments, **arguments, cancelled=stop)
        mine = Decoding(self.name, output, time.perf_counter() - start)
        config = generation_config(self.method, self.run, self.decoder.eos_token_ids)
        if config is None or stop() or not output.token_ids:
            return mine
        if output.finish_reason == "length":  # perhaps by the context, which transformers does not heed
            config.max_new_tokens = len(output.token_ids)
        self._set_seed()
        start = time.perf_counter()
        model, tokenizer = self.decoder.expert, self.decoder.tokenizer
        theirs = transformers_tokens(model, tokenizer, output.prompt_token_ids, config, stop)
        seconds = time.perf_counter() - start
        if stop():
            return mine
        return dataclasses.replace(
            mine,
            same=theirs == output.token_ids,
            transformers_tokens=len(theirs),
            transformers_seconds=seconds,
        )

    def warm_up(self, prompt: str, arguments: Mapping[str, Any]) -> None:
        """Decode a few tokens, for the first ones of a process are slow."""
        few = min(_WARM_UP_TOKENS, self.run.max_new_tokens)
        short = dataclasses.replace(self, run=dataclasses.replace(self.run, max_new_tokens=few))
        short.decode(prompt, {**arguments, "max_new_tokens": few}, lambda: False)

    def _set_seed(self) -> None:
        if self.seed is not None:
            torch.manual_seed(self.seed)


def split_names(methods: str) -> list[str]:
    """Return the methods that a list names, each once.

    Raises
    ------
    UsageError
        If it names none.
    """
    names = list(dict.fromkeys(name.strip() for name in methods.split(",") if name.strip()))
    if not names:
        raise UsageError("--methods names none; `descant methods` lists them")
    return names


def load_for(plan: Plan, resolved: Collection[Resolved], *, amateur: bool = False) -> Decoder:
    """Load what some methods read, and the amateur also if it is wanted by itself.

    Raises
    ------
    UsageError
        If one of them needs an amateur and the plan has none.
    """
    reads_amateur = any(entry.reads_amateur for entry in resolved)
    if reads_amateur and not plan.has_amateur:
        raise UsageError(f"one of the methods {NEEDS_AMATEUR}")
    reads = dict.fromkeys(name for entry in resolved for name in entry.method.scoring.sources)
    return load_models(plan, reads_amateur=reads_amateur or amateur, reads=reads)


def resolve_all(names: Iterable[str], given: Mapping[str, Any]) -> list[Resolved]:
    """Apply the options to every method that they can act on.

    Raises
    ------
    UsageError
        If an option acts on none of them.
    """
    found = [apply(preset(name), given) for name in names]
    used = frozenset[str]().union(*(entry.used for entry in found))
    refuse_unused(given, used, "none of the methods has it to change; leave it out, or choose other --methods")
    return found

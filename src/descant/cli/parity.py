"""What transformers' own `model.generate` makes of a method, where it has the method."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
)

from descant.cli.options import RunOptions
from descant.presets import Preset
from descant.processors import (
    Epsilon,
    Eta,
    MinNewTokens,
    MinP,
    NoRepeatNGram,
    Processor,
    RepetitionPenalty,
    Temperature,
    TopK,
    TopP,
    Typical,
)
from descant.scoring import Likelihood
from descant.strategies import Beam, ContrastiveSearch, Speculative

_NAMES: Mapping[type[Processor], tuple[str, str]] = {
    RepetitionPenalty: ("penalty", "repetition_penalty"),
    NoRepeatNGram: ("n", "no_repeat_ngram_size"),
    MinNewTokens: ("n", "min_new_tokens"),
    Temperature: ("temperature", "temperature"),
    TopK: ("k", "top_k"),
    TopP: ("p", "top_p"),
    MinP: ("p", "min_p"),
    Typical: ("mass", "typical_p"),
    Epsilon: ("epsilon", "epsilon_cutoff"),
    Eta: ("epsilon", "eta_cutoff"),
}
"""For each processor: its setting, and what transformers calls it."""


def generation_config(method: Preset, run: RunOptions, eos_token_ids: Sequence[int]) -> GenerationConfig | None:
    """Translate a method for transformers; None if it has no such method."""
    if isinstance(method.strategy, Speculative) and method.strategy.random:
        return None  # the same distribution, but other draws
    if isinstance(method.strategy, ContrastiveSearch):
        return None  # removed in transformers 5
    if not isinstance(method.scoring, Likelihood) or any(type(part) not in _NAMES for part in method.processors):
        return None
    if isinstance(method.strategy, Beam) and not _has_beams(method.strategy):
        return None
    settings: dict[str, Any] = {}
    for part in method.processors:
        ours, theirs = _NAMES[type(part)]
        settings[theirs] = getattr(part, ours)
    if method.strategy.random:
        settings = {"do_sample": True, "top_k": 0, **settings}
    if isinstance(method.strategy, Beam):
        names = {"num_beams": "width", "length_penalty": "length_penalty", "early_stopping": "early_stopping"}
        settings |= {theirs: getattr(method.strategy, ours) for theirs, ours in names.items()}
    eos = [] if run.ignore_eos else list(eos_token_ids)
    return GenerationConfig(
        max_new_tokens=run.max_new_tokens,
        eos_token_id=eos or None,
        pad_token_id=eos[0] if eos else 0,
        stop_strings=run.stop or None,
        **settings,
    )


def _has_beams(strategy: Beam) -> bool:
    """Tell whether transformers has a beam search: its truncations keep more tokens where beams are drawn."""
    return strategy.width > 1 and strategy.groups == 1 and strategy.ranking == "score" and not strategy.random


class _Stop(StoppingCriteria):
    """Ends every row once the user asks."""

    def __init__(self, stop: Callable[[], bool]) -> None:
        self.stop = stop

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        del scores
        return torch.full((input_ids.shape[0],), self.stop(), dtype=torch.bool, device=input_ids.device)


@torch.inference_mode()
def transformers_tokens(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    prompt: Sequence[int],
    config: GenerationConfig,
    stop: Callable[[], bool],
) -> list[int]:
    """Return the new tokens of `model.generate` for one prompt, under nothing but `config`, until `stop`."""
    ids = torch.tensor([list(prompt)], device=model.device)
    stops = {"tokenizer": tokenizer} if config.stop_strings else {}
    with _defaults_of(model, config):
        tokens = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            generation_config=config,
            stopping_criteria=StoppingCriteriaList([_Stop(stop)]),
            **stops,
        )  # type: ignore[operator]
    return [int(token) for token in tokens[0, len(prompt) :]]


@contextlib.contextmanager
def _defaults_of(model: PreTrainedModel, config: GenerationConfig) -> Iterator[None]:
    """Keep out the checkpoint's own sampling settings, which transformers adds to the caller's."""
    before = model.generation_config
    model.generation_config = config
    try:
        yield
    finally:
        model.generation_config = before

"""What transformers' own `model.generate` makes of a method, where it has the method."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
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


def generation_config(method: Preset, run: RunOptions, eos_token_ids: Sequence[int]) -> GenerationConfig | None:
    """Translate a method for transformers; None if it has no such method."""
    scored, grown = method.scoring.of_transformers, method.strategy.of_transformers
    names = [part.of_transformers for part in method.processors]
    if scored is None or grown is None or None in names:
        return None
    values = [next(iter(vars(part).values())) for part in method.processors]
    settings: dict[str, Any] = {**scored, **grown, **dict(zip(map(str, names), values, strict=True))}
    eos = [] if run.ignore_eos else list(eos_token_ids)
    return GenerationConfig(
        max_new_tokens=run.max_new_tokens,
        eos_token_id=eos or None,
        pad_token_id=eos[0] if eos else 0,
        stop_strings=run.stop or None,
        **settings,
    )


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

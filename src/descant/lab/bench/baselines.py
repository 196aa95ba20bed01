"""What transformers alone offers: greedy and assisted generation, and contrast as a processor of logits."""

import contextlib
import inspect
import math
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import (
    DynamicCache,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteria,
    StoppingCriteriaList,
)

from descant.lab.bench.clock import Decoded, Span
from descant.models.architecture import cache_argument

Rows = Sequence[Sequence[int]]


class ContrastiveProcessor(LogitsProcessor):
    """Contrastive decoding as it is done with transformers alone: a processor that runs the amateur.

    The difference form of Li et al. 2022 (arXiv 2210.15097), as `descant.Contrastive()` has it.

    Parameters
    ----------
    amateur
        Another model with the expert's tokens.
    prompt_mask
        The attention mask of the padded prompts, `[rows, tokens]`.
    alpha
        α: how much less likely than the best a token may be to the expert.
    use_cache
        Whether the amateur keeps its keys and values, or reads the whole text at every step.
    """

    def __init__(self, amateur: PreTrainedModel, prompt_mask: Tensor, *, alpha: float = 0.1, use_cache: bool = True):
        self.amateur = amateur
        self.mask = prompt_mask
        self.alpha = alpha
        self.cache = DynamicCache(config=amateur.config) if use_cache else None
        self.read = 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return the contrast `[rows, vocab]` of the expert's logits `scores`."""
        amateur = self._logits(input_ids).to(scores)
        width = min(scores.shape[-1], amateur.shape[-1])
        contrast = torch.full_like(scores, -math.inf)
        contrast[:, :width] = scores[:, :width].log_softmax(-1) - amateur[:, :width].log_softmax(-1)
        return contrast.masked_fill_(scores < scores.amax(-1, keepdim=True) + math.log(self.alpha), -math.inf)

    def _logits(self, input_ids: Tensor) -> Tensor:
        """Return the amateur's logits `[rows, vocab]` after the texts so far."""
        rows, length = input_ids.shape
        mask = torch.cat([self.mask, self.mask.new_ones(rows, length - self.mask.shape[1])], dim=-1)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        optional = {"position_ids": positions[:, self.read :], "logits_to_keep": 1}
        known = inspect.signature(self.amateur.forward).parameters
        logits: Tensor = self.amateur(
            input_ids=input_ids[:, self.read :],
            attention_mask=mask,
            use_cache=self.cache is not None,
            **{cache_argument(self.amateur.forward): self.cache},
            **{name: value for name, value in optional.items() if name in known},
        ).logits[:, -1]
        if self.cache is not None:
            self.read = length
        return logits


class _FirstToken(StoppingCriteria):
    """Notes when the first tokens come, and never stops; transformers asks after every pass of the expert."""

    def __init__(self, rows: int, prompt_length: int, device: torch.device) -> None:
        self.prompt_length = prompt_length
        self.never = torch.zeros(rows, dtype=torch.bool, device=device)
        self.at: float | None = None
        self.tokens = 0

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        del scores
        if self.at is None:
            self.at, self.tokens = time.perf_counter(), input_ids.numel() - self.prompt_length * len(input_ids)
        return self.never


@torch.inference_mode()
def generate(
    model: PreTrainedModel, prompts: Rows, max_new_tokens: int, *, use_cache: bool = True, **settings: Any
) -> Decoded:
    """Decode greedily with `model.generate`, all rows together, padded on the left.

    Parameters
    ----------
    model
        The expert.
    prompts
        Rows of token ids.
    max_new_tokens
        How many tokens every row gains; no end of sequence ends it.
    use_cache
        Whether keys and values are kept.
    settings
        Further arguments of `model.generate`.
    """
    start = time.perf_counter()
    ids, mask = padded(prompts, model.device)
    clock = _FirstToken(len(prompts), ids.shape[1], model.device)
    config, assistants = _endless(max_new_tokens=max_new_tokens, use_cache=use_cache), _endless()
    with _defaults(model, config), _defaults(settings.get("assistant_model"), assistants):
        tokens = model.generate(  # type: ignore[operator]
            input_ids=ids,
            attention_mask=mask,
            generation_config=config,
            stopping_criteria=StoppingCriteriaList([clock]),
            **settings,
        )[:, ids.shape[1] :].tolist()
    end = time.perf_counter()
    return Decoded(tokens, (Span(start, clock.at or end, clock.tokens, end),))


def assisted(model: PreTrainedModel, assistant: PreTrainedModel, prompts: Rows, max_new_tokens: int) -> Decoded:
    """Decode with assisted generation at its default settings, one row after another: it takes no batches."""
    done = [generate(model, [row], max_new_tokens, assistant_model=assistant) for row in prompts]
    return Decoded([part.tokens[0] for part in done], tuple(part.spans[0] for part in done))


def contrastive(
    model: PreTrainedModel, amateur: PreTrainedModel, prompts: Rows, max_new_tokens: int, *, use_cache: bool = True
) -> Decoded:
    """Decode contrastively with `model.generate` and a processor that runs the amateur."""
    _, mask = padded(prompts, amateur.device)
    processor = ContrastiveProcessor(amateur, mask, use_cache=use_cache)
    chain = LogitsProcessorList([processor])
    return generate(model, prompts, max_new_tokens, logits_processor=chain, use_cache=use_cache)


def padded(prompts: Rows, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return rows padded on the left, `[rows, tokens]`, and their attention mask."""
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(row)) + list(row) for row in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in prompts], device=device)
    return ids, mask


def _endless(**settings: int) -> GenerationConfig:
    """Return greedy decoding that no end of sequence ends."""
    return GenerationConfig(do_sample=False, eos_token_id=None, pad_token_id=0, **settings)


@contextlib.contextmanager
def _defaults(model: PreTrainedModel | None, config: GenerationConfig) -> Iterator[None]:
    """Keep out a checkpoint's own settings, which transformers adds to the caller's."""
    if model is None:
        yield
        return
    before = model.generation_config
    model.generation_config = config
    try:
        yield
    finally:
        model.generation_config = before

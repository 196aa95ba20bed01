"""Naive decoding, written from the papers: no cache, no batch, one full pass a token.

It shares no code with descant beyond the settings objects' fields.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

Sourcing = Callable[[list[int]], torch.Tensor]
"""Logits of the next token after a text."""


@torch.inference_mode()
def last_logits(model: PreTrainedModel, text: Sequence[int]) -> torch.Tensor:
    return model(torch.tensor([list(text)]), use_cache=False).logits[0, -1]


def full(model: PreTrainedModel) -> Sourcing:
    return lambda text: last_logits(model, text)


def window(model: PreTrainedModel, tokens: int) -> Sourcing:
    return lambda text: last_logits(model, text[-tokens:])


def early_exit(model: Any, layer: int, *, norm: bool = True) -> Sourcing:
    """Llama-like models: `lm_head(norm(hidden_states[layer]))`."""

    @torch.inference_mode()
    def logits(text: list[int]) -> torch.Tensor:
        hidden = model(torch.tensor([text]), use_cache=False, output_hidden_states=True).hidden_states[layer][0, -1]
        return model.lm_head(model.model.norm(hidden) if norm else hidden)

    return logits


def contrastive(
    expert: torch.Tensor,
    amateur: torch.Tensor,
    *,
    alpha: float = 0.1,
    beta: float | None = None,
    temperature: float = 1.0,
    candidates: int | None = None,
    released: bool = False,
) -> list[float]:
    """Scores of every token, one by one."""
    width = min(len(expert), len(amateur))
    e, a = expert[:width].tolist(), amateur[:width].tolist()
    log_z_e = math.log(sum(math.exp(x - max(e)) for x in e)) + max(e)
    scaled = a if released else [x / temperature for x in a]
    log_z_a = math.log(sum(math.exp(x - max(scaled)) for x in scaled)) + max(scaled)
    best = sorted(e, reverse=True)
    floor = best[0] + math.log(alpha)
    if candidates is not None:
        floor = max(floor, best[min(candidates, width) - 1])
    scores = []
    for x, y in zip(e, scaled, strict=True):
        if x < floor:
            scores.append(-math.inf)
        elif beta is not None:
            scores.append((1 + beta) * x - beta * y)
        else:
            weak = y - log_z_a
            scores.append((x - log_z_e) - (weak / temperature if released else weak))
    return scores


def decode(
    prompt: Sequence[int],
    expert: Sourcing,
    amateur: Sourcing | None = None,
    *,
    count: int = 12,
    eos: Sequence[int] = (),
    **settings: Any,
) -> list[int]:
    """Greedy decoding; contrastive where an amateur is given."""
    text = list(prompt)
    for _ in range(count):
        scores = expert(text).tolist()
        if amateur is not None:
            scores = contrastive(expert(text), amateur(text), **settings)
        text.append(max(range(len(scores)), key=scores.__getitem__))
        if text[-1] in eos:
            break
    return text[len(prompt) :]


def covers(model: PreTrainedModel, context: list[int], data: bytes, spelled: list[bytes | None]) -> float:
    """Return the probability of all covers of bytes; of all, the first is the only one of no bytes."""
    if not data:
        return 1.0
    total = 0.0
    probabilities = last_logits(model, context).softmax(-1).tolist()
    for token_id, token in enumerate(spelled):
        if token and token.startswith(data):
            total += probabilities[token_id]
        elif token and data.startswith(token):
            rest = covers(model, [*context, token_id], data[len(token) :], spelled)
            total += probabilities[token_id] * rest
    return total


def ends_after(
    model: PreTrainedModel, context: list[int], data: bytes, ends: tuple[int, ...], spelled: list[bytes | None]
) -> float:
    """Return the probability of all spellings of bytes that one of `ends` follows."""
    probabilities = last_logits(model, context).softmax(-1).tolist()
    if not data:
        return sum(probabilities[token_id] for token_id in ends)
    return sum(
        probabilities[token_id] * ends_after(model, [*context, token_id], data[len(token) :], ends, spelled)
        for token_id, token in enumerate(spelled)
        if token and data.startswith(token)
    )

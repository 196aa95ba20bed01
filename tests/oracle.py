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


def greedy(prompt: Sequence[int], score: Callable[[list[int]], list[float]], count: int = 12) -> list[int]:
    """Greedy decoding by any function from a text to the scores of its next token."""
    text = list(prompt)
    for _ in range(count):
        scores = score(text)
        text.append(max(range(len(scores)), key=scores.__getitem__))
    return text[len(prompt) :]


def log_softmax(logits: Sequence[float]) -> list[float]:
    best = max(logits)
    total = best + math.log(math.fsum(math.exp(x - best) for x in logits))
    return [x - total for x in logits]


def dola(
    expert: Sequence[float],
    early: Sequence[Sequence[float]],
    *,
    alpha: float = 0.1,
    released: bool = False,
) -> list[float]:
    """DoLa's scores from the expert's logits and those of the candidate layers."""
    p = log_softmax(expert)

    def divergence(layer: Sequence[float]) -> float:
        terms = []
        for x, y in zip(p, log_softmax(layer), strict=True):
            m = (math.exp(x) + math.exp(y)) / 2
            if released:
                terms.append(m * (2 * math.log(m) - x - y) / 2)
            else:
                terms.append((math.exp(x) * (x - math.log(m)) + math.exp(y) * (y - math.log(m))) / 2)
        return math.fsum(terms)

    q = log_softmax(max(early, key=divergence))
    return [x - y if x >= max(p) + math.log(alpha) else -math.inf for x, y in zip(p, q, strict=True)]


def auto_contrastive(expert: Sequence[float], early: Sequence[float], *, alpha: float = 0.1) -> list[float]:
    p, q = log_softmax(expert), log_softmax(early)
    head = [x >= max(p) + math.log(alpha) for x in p]
    mass = math.fsum(math.exp(x) for x, inside in zip(p, head, strict=True) if inside)
    ratios = [math.exp(x - y) if inside else 0.0 for x, y, inside in zip(p, q, head, strict=True)]
    total = math.fsum(ratios)
    return [math.log(r / total * mass) if inside else x for x, r, inside in zip(p, ratios, head, strict=True)]


def entropy(logits: Sequence[float]) -> float:
    return -math.fsum(math.exp(x) * x for x in log_softmax(logits))


def jensen_shannon(one: Sequence[float], other: Sequence[float]) -> float:
    total = 0.0
    for x, y in zip(log_softmax(one), log_softmax(other), strict=True):
        m = math.log((math.exp(x) + math.exp(y)) / 2)
        total += (math.exp(x) * (x - m) + math.exp(y) * (y - m)) / 2
    return total


def context_aware(expert: Sequence[float], amateur: Sequence[float], alpha: float | str) -> list[float]:
    if alpha == "entropy":
        without, with_context = entropy(amateur), entropy(expert)
        alpha = without / (without + with_context)
        return [y + alpha * (x - y) for x, y in zip(expert, amateur, strict=True)]
    strength = jensen_shannon(expert, amateur) if alpha == "divergence" else float(alpha)
    return [(1 + strength) * x - strength * y for x, y in zip(expert, amateur, strict=True)]


def guidance(expert: Sequence[float], amateur: Sequence[float], scale: float) -> list[float]:
    return [y + scale * (x - y) for x, y in zip(log_softmax(expert), log_softmax(amateur), strict=True)]


def steered(
    base: Sequence[float], plus: Sequence[float], minus: Sequence[float], alpha: float, top_p: float = 1.0
) -> list[float]:
    """Proxy tuning, and DExperts over the nucleus of its base model."""
    kept, mass = set[int](), 0.0
    probabilities = [math.exp(x) for x in log_softmax(base)]
    for token in sorted(range(len(base)), key=lambda token: -base[token]):
        if mass >= top_p:
            break
        kept.add(token)
        mass += probabilities[token]
    scores = [b + alpha * (x - y) for b, x, y in zip(base, plus, minus, strict=True)]
    return [score if token in kept else -math.inf for token, score in enumerate(scores)]


def ngram(text: Sequence[int], history: Sequence[Sequence[int]], order: int, width: int) -> list[float]:
    """Log-probabilities after a text by interpolated Witten–Bell counts over some texts, recounted from scratch."""
    probabilities = [1 / width] * width
    for size in range(order):
        if size > len(text):
            break
        context = list(text[len(text) - size :])
        following = [
            other[end]
            for other in history
            for end in range(size, len(other))
            if list(other[end - size : end]) == context
        ]
        kinds = len(set(following))
        if following:
            scale = len(following) + kinds
            probabilities = [(following.count(x) + kinds * p) / scale for x, p in enumerate(probabilities)]
    return [math.log(p) for p in probabilities]

"""Naive decoding, written from the papers: no cache, no batch, one full pass a token.

It shares no code with descant beyond the settings objects' fields.
"""

import math
import statistics
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from transformers import NoBadWordsLogitsProcessor, PreTrainedModel

Sourcing = Callable[[list[int]], torch.Tensor]
"""Logits of the next token after a text."""

Score = Callable[[list[int]], list[float]]
"""Scores of every next token after a text."""

Change = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""A processor as transformers has it: `(input_ids [1, length], scores [1, vocab]) → scores`."""


def bad_words(sequences: list[list[int]]) -> Change:
    """Return transformers' bad words. 5.17 leaves out what is longer than the text by one, hence a token in front."""
    theirs = NoBadWordsLogitsProcessor(sequences)
    return lambda ids, scores: theirs(torch.nn.functional.pad(ids, (1, 0), value=-1), scores)


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
    expert: Sequence[float] | torch.Tensor,
    amateur: Sequence[float] | torch.Tensor,
    *,
    alpha: float = 0.1,
    beta: float | None = None,
    temperature: float = 1.0,
    candidates: int | None = None,
    released: bool = False,
) -> list[float]:
    """Scores of every token, one by one."""
    width = min(len(expert), len(amateur))
    e, a = [float(x) for x in expert[:width]], [float(x) for x in amateur[:width]]
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
    eos: Collection[int] = (),
    **settings: Any,
) -> list[int]:
    """Greedy decoding; contrastive where an amateur is given."""
    if amateur is None:
        return greedy(prompt, lambda text: expert(text).tolist(), count, eos)
    return greedy(prompt, lambda text: contrastive(expert(text), amateur(text), **settings), count, eos)


def greedy(prompt: Sequence[int], score: Score, count: int = 12, eos: Collection[int] = ()) -> list[int]:
    """The best token at every step."""
    return follow(prompt, score, lambda scores: max(range(len(scores)), key=scores.__getitem__), count, eos)


def sample(
    prompt: Sequence[int], score: Score, uniform: Callable[[], float], count: int, eos: Collection[int] = ()
) -> list[int]:
    """Tokens where the running sum of probabilities, in order of ids, passes a number drawn for each."""

    def choose(scores: list[float]) -> int:
        probabilities = [math.exp(x) for x in log_softmax(scores)]
        wanted = uniform()
        return next(token for token in range(len(scores)) if math.fsum(probabilities[: token + 1]) > wanted)

    return follow(prompt, score, choose, count, eos)


def sample_as_transformers(
    prompts: Sequence[Sequence[int]], scores: Sequence[Score], count: int, eos: Collection[int] = ()
) -> list[list[int]]:
    """One draw a step for all rows from torch's global generator; those that have ended draw for nobody."""
    texts = [list(prompt) for prompt in prompts]
    going = set(range(len(texts)))
    for _ in range(count):
        known = {row: torch.tensor(scores[row](texts[row]), dtype=torch.float32).softmax(-1) for row in sorted(going)}
        ones = torch.ones_like(next(iter(known.values())))
        drawn = torch.multinomial(torch.stack([known.get(row, ones) for row in range(len(texts))]), 1)[:, 0].tolist()
        for row in sorted(going):
            texts[row].append(drawn[row])
        going = {row for row in going if drawn[row] not in eos}
        if not going:
            break
    return [text[len(prompt) :] for text, prompt in zip(texts, prompts, strict=True)]


def contrastive_search(
    prompt: Sequence[int],
    score: Score,
    hidden: Callable[[list[int]], torch.Tensor],
    k: int,
    penalty: float,
    count: int = 12,
    eos: Collection[int] = (),
) -> list[int]:
    """Of the k most probable tokens the one with the best `(1 − penalty) p − penalty · likeness` to an earlier one.

    `hidden` gives what enters the output head at every token of a text.
    """
    text = list(prompt)
    for _ in range(count):
        logprobs = log_softmax(score(text))
        best, chosen = -math.inf, -1
        for token in sorted(range(len(logprobs)), key=lambda token: -logprobs[token])[:k]:
            if logprobs[token] == -math.inf:
                continue
            states = hidden([*text, token])
            likeness = float(torch.cosine_similarity(states[-1:], states[:-1]).max())
            value = (1 - penalty) * math.exp(logprobs[token]) - penalty * likeness
            if value > best:
                best, chosen = value, token
        text.append(chosen)
        if chosen in eos:
            break
    return text[len(prompt) :]


@torch.inference_mode()
def hidden_states(model: Any, text: Sequence[int]) -> torch.Tensor:
    """What enters the output head at every token, by a full pass without a cache."""
    seen: list[torch.Tensor] = []
    handle = model.get_output_embeddings().register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model(torch.tensor([list(text)]), use_cache=False)
    handle.remove()
    return seen[0][0]


def follow(
    prompt: Sequence[int], score: Score, choose: Callable[[list[float]], int], count: int, eos: Collection[int]
) -> list[int]:
    """Decode token by token, as some function chooses from the scores."""
    text = list(prompt)
    for _ in range(count):
        text.append(choose(score(text)))
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


def search(
    prompt: Sequence[int],
    score: Score,
    width: int,
    count: int,
    eos: Collection[int] = (),
    *,
    rank: Score | None = None,
    draw: Callable[[list[float], int], list[int]] | None = None,
    length_penalty: float = 1.0,
) -> list[tuple[list[int], float]]:
    """Beam search until `width` sequences have ended and the best beam, ending now, would be no better than the worst.

    There are so many candidates that `width` are left if all ends of sequence are among them. With `rank`, they are
    those with the greatest ranks over all beams, whatever their beams' sums; without, those with the greatest sums.
    With `draw`, they are those whose places it draws, so many, from all sums.
    """
    beams: list[tuple[list[int], float]] = [([], 0.0)]
    ended: list[tuple[list[int], float]] = []
    for length in range(1, count + 1):
        pool = []
        for tokens, total in beams:
            values = score([*prompt, *tokens])
            ranks = rank([*prompt, *tokens]) if rank is not None else [total + value for value in values]
            pool += [(ranks[token], [*tokens, token], total + value) for token, value in enumerate(values)]
        looked_at = max(2, 1 + len(eos)) * width
        if draw is None:
            pool = sorted(pool, key=lambda entry: -entry[0])[:looked_at]
        else:
            pool = [pool[place] for place in draw([total for _, _, total in pool], looked_at)]
        candidates = sorted(((t, s) for _, t, s in pool if s > -math.inf), key=lambda entry: -entry[1])
        final = [(t, s) for t, s in candidates[:width] if t[-1] in eos or length == count]
        ended = sorted([*ended, *((t, s / length**length_penalty) for t, s in final)], key=lambda e: -e[1])[:width]
        beams = [(t, s) for t, s in candidates if t[-1] not in eos][:width]
        if length == count or not beams:
            break
        if len(ended) == width and beams[0][1] / length**length_penalty <= ended[-1][1]:
            break
    return ended


def processed(
    scores: Sequence[float], fallback: Sequence[float], changes: Sequence[Change], text: Sequence[int]
) -> list[float]:
    """Scores after processors; where these leave nothing, what they leave of the fallback."""

    def change(values: Sequence[float]) -> list[float]:
        ids, row = torch.tensor([list(text)]), torch.tensor([list(values)], dtype=torch.float64)
        for each in changes:
            row = each(ids, row)
        return [float(x) for x in row[0]]

    changed = change(scores)
    return changed if any(x > -math.inf for x in changed) else change(fallback)


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


def penalised(scores: Sequence[float], written: Sequence[int], penalty: float, *, every_time: bool) -> list[float]:
    """Presence or frequency penalty: one subtraction a token that was written, or one each time it was."""
    return [x - penalty * (written.count(token) if every_time else token in written) for token, x in enumerate(scores)]


def n_sigma_edge(scores: Sequence[float], n: float) -> float:
    """The least score within n standard deviations of the best, of those that are allowed."""
    allowed = [x for x in scores if x > -math.inf]
    return max(allowed) - n * (statistics.stdev(allowed) if len(allowed) > 1 else 0.0)

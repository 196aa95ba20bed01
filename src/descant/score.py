"""The log-probability of given text, under any scoring and processors."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from descant.errors import DecodingError
from descant.models.sources import Sources
from descant.processors.base import History, Processor
from descant.results import Score
from descant.scoring.base import Scoring

_ENTRIES = 1 << 26
"""Logits held at once, over rows, positions and vocabulary."""

Pair = tuple[list[int], list[int]]
"""Token ids of a prompt and of its continuation."""


@torch.inference_mode()
def score_continuations(
    sources: Sources, scoring: Scoring, processors: Sequence[Processor], pairs: Sequence[Pair]
) -> list[Score]:
    """Score continuations that are read together, in blocks of positions that bound the memory for logits.

    Parameters
    ----------
    sources
        The models, without rows.
    scoring, processors
        The method; a token's probability is the softmax of its processed scores.
    pairs
        Prompts and continuations, each of one token at least.
    """
    sources.reserve(len(pairs), max(len(prompt) + len(end) for prompt, end in pairs))
    sources.add_rows(len(pairs))
    block = max(1, _ENTRIES // (len(pairs) * sources.width))
    logprobs: list[list[float]] = [[] for _ in pairs]
    active = list(range(len(pairs)))
    while active:
        spans = []
        for pair in active:
            prompt, end = pairs[pair]
            start = len(logprobs[pair])
            spans.append((len(prompt) + start, len(prompt) + min(len(end), start + block)))
        keep = max(stop - start for start, stop in spans)
        texts = [[*pairs[pair][0], *pairs[pair][1]] for pair in active]
        read = sources.read(
            scoring.sources, [text[: stop - 1] for text, (_, stop) in zip(texts, spans, strict=True)], keep
        )
        for place, (pair, text, (start, stop)) in enumerate(zip(active, texts, spans, strict=True)):
            scores = scoring({name: logits[place, -(stop - start) :] for name, logits in read.items()})
            logprobs[pair] += _token_logprobs(scores, processors, text, len(pairs[pair][0]), start, stop)
        unfinished = [place for place, pair in enumerate(active) if len(logprobs[pair]) < len(pairs[pair][1])]
        if len(unfinished) < len(active):
            sources.keep_rows(unfinished)
            active = [active[place] for place in unfinished]
    return [Score(end, values) for (_, end), values in zip(pairs, logprobs, strict=True)]


def _token_logprobs(
    scores: Float[Tensor, "positions vocab"],
    processors: Sequence[Processor],
    text: Sequence[int],
    prompt_length: int,
    start: int,
    stop: int,
) -> list[float]:
    """Return the log-probabilities of tokens `start … stop − 1` of a text from the scores at their positions."""
    device = scores.device
    tokens = torch.tensor(text, device=device)
    if processors:
        count = stop - start
        history = History(
            tokens[None, : stop - 1].expand(count, -1),
            torch.arange(start, stop, device=device),
            torch.full((count,), prompt_length, device=device),
        )
        for processor in processors:
            scores = processor(history, scores)
    logprobs: list[float] = scores.log_softmax(-1).gather(-1, tokens[start:stop, None])[:, 0].tolist()
    for place, value in enumerate(logprobs):
        if math.isnan(value):
            raise DecodingError(
                f"the scores at token {start + place - prompt_length} of a continuation are not finite numbers; the "
                'checkpoint is damaged or overflows its dtype (try dtype="float32"), or the processors forbid every '
                "token"
            )
    return logprobs

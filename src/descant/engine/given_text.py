"""The log-probability of given text, under any scoring and processors."""

import math
from collections.abc import Mapping, Sequence

import torch

from descant.errors import DecodingError
from descant.models.base import ByteSource
from descant.numerics import choose
from descant.processors.base import History, Processor
from descant.processors.process import logprobs, process
from descant.results import Score
from descant.scoring.base import Scoring
from descant.sources.other_prompt import Replacement
from descant.sources.sources import Sources
from descant.types import Logits

_ENTRIES = 1 << 26
"""Logits held at once, over rows, positions, sources and vocabulary."""

Pair = tuple[list[int], list[int]]
"""Token ids of a prompt and of its continuation."""


@torch.inference_mode()
def score_continuations(
    sources: Sources,
    scoring: Scoring,
    processors: Sequence[Processor],
    pairs: Sequence[Pair],
    other_prompts: Sequence[Mapping[str, Replacement]],
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
    other_prompts
        For each pair, what sources by name read in place of its prompt.
    """
    longest = max(len(prompt) + len(end) - 1 for prompt, end in pairs)  # the last token is not read
    sources.add_rows(len(pairs), other_prompts)
    sources.reserve(len(pairs), longest)
    block = max(1, _ENTRIES // (len(pairs) * len(scoring.sources) * max(sources.width, longest)))
    if not all(model.continues_in_blocks for model in sources.models):
        block = longest  # further blocks would be read token by token
    scored: list[list[float]] = [[] for _ in pairs]
    greedy = [True] * len(pairs)
    active = list(range(len(pairs)))
    while active:
        spans = []
        for pair in active:
            prompt, end = pairs[pair]
            start = len(scored[pair])
            spans.append((len(prompt) + start, len(prompt) + min(len(end), start + block)))
        keep = max(stop - start for start, stop in spans)
        texts = [[*pairs[pair][0], *pairs[pair][1]] for pair in active]
        names = [name for name in scoring.sources if name not in sources.bridges]
        read = dict(sources.read(names, [text[: stop - 1] for text, (_, stop) in zip(texts, spans, strict=True)], keep))
        for name in set(scoring.sources) - set(names):
            read |= {name: _ask(sources.bridges[name], scoring, read["expert"], texts, spans)}
        read |= sources.byte_totals(read)
        for place, (pair, text, (start, stop)) in enumerate(zip(active, texts, spans, strict=True)):
            logits = {name: values[place, -(stop - start) :] for name, values in read.items()}
            history = _history(text, len(pairs[pair][0]), start, stop, sources.device) if processors else None
            scores = process(processors, history, scoring(logits), logits["expert"])
            ids = torch.tensor(text[start:stop], device=sources.device)
            new = logprobs(scores, ids).tolist()
            _check(new, start - len(pairs[pair][0]))
            scored[pair] += new
            greedy[pair] &= bool((choose.argmax(scores) == ids).all())
        unfinished = [place for place, pair in enumerate(active) if len(scored[pair]) < len(pairs[pair][1])]
        if len(unfinished) < len(active):
            sources.keep_rows(unfinished)
            active = [active[place] for place in unfinished]
    found = zip(pairs, scored, greedy, strict=True)
    return [Score(end, values, greedy=best) for (_, end), values, best in found]


def _ask(
    bridge: ByteSource,
    scoring: Scoring,
    expert: Logits,
    texts: Sequence[Sequence[int]],
    spans: Sequence[tuple[int, int]],
) -> Logits:
    """Return `[rows, keep, vocab]`: what a model with another tokenizer makes of the candidates before each token."""
    candidates = scoring.head(expert)
    assert candidates is not None
    judged, keep = expert.clone(), expert.shape[1]
    for place in range(keep):
        back = keep - 1 - place
        asked = [row for row, (start, stop) in enumerate(spans) if stop - 1 - back >= start]
        ends = [max(1, stop - 1 - back) for _, stop in spans]
        parts = [text[:end] for text, end in zip(texts, ends, strict=True)]
        judged[asked, place] = bridge.judge(parts, asked, expert[asked, place], candidates[asked, place])
    return judged


def _history(text: Sequence[int], prompt_length: int, start: int, stop: int, device: torch.device) -> History:
    """Return what precedes tokens `start … stop − 1` of a text."""
    count = stop - start
    return History(
        torch.tensor(text[: stop - 1], device=device).expand(count, -1),
        torch.arange(start, stop, device=device),
        torch.full((count,), prompt_length, device=device),
    )


def _check(values: Sequence[float], place: int) -> None:
    """Raise if a position has no distribution; the first is number `place` of its continuation."""
    for number, value in enumerate(values, start=place):
        if math.isnan(value):
            raise DecodingError(
                f"the scores at token {number} of a continuation are not finite numbers: the checkpoint is damaged or "
                'overflows its dtype (try dtype="float32"), or the processors forbid every token'
            )

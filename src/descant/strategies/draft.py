"""Guessing the next tokens cheaply, so that the expert can verify several of them in one pass."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from descant.models.base import ByteSource
from descant.processors.process import logprobs
from descant.rows import Row
from descant.strategies.base import TokenStrategy
from descant.strategies.drafts import Drafts
from descant.strategies.greedy import Greedy
from descant.strategies.growth import Draws, Loop

_FEW = 4
"""Tokens that a drafting model reads in about the time of one."""


class Drafter(ABC):
    """Proposes tokens for rows; what it proposes changes the speed and never the text."""

    source: str | None = None

    @abstractmethod
    def propose(self, rows: Sequence[Row], most: Sequence[int]) -> Drafts:
        """Draft at most `most[i]` tokens for row i."""


class ModelDrafter(Drafter):
    """Drafts with a model that reads the rows token by token.

    Parameters
    ----------
    loop
        Whose rows grow. A draft that its processors would forbid is never proposed.
    source
        Which of its models drafts.
    strategy
        How a draft is chosen: as the tokens themselves are.
    confidence
        A row's draft ends with a token to which its source gives less probability than this.
    """

    def __init__(self, loop: Loop, source: str, strategy: TokenStrategy, confidence: float) -> None:
        self.source = source
        self._loop = loop
        self._sources = loop.sources
        self._model = loop.sources.model(source)
        self._strategy = strategy
        self._confidence = confidence
        self._greedily = isinstance(strategy, Greedy) and not loop.processors

    def propose(self, rows: Sequence[Row], most: Sequence[int]) -> Drafts:
        room = [self._room(row) for row in rows]
        pairs = zip(rows, self._model.lengths, room, strict=True)
        behind = max((len(row.tokens) - held for row, held, left in pairs if left > 0), default=0)
        drafts = self._propose(rows, [min(limit, left) for limit, left in zip(most, room, strict=True)], room)
        drafts.caught_up = behind <= _FEW
        return drafts

    def _propose(self, rows: Sequence[Row], most: Sequence[int], room: Sequence[int]) -> Drafts:
        if self._greedily and 0 < max(most) <= min(room) and min(most) > 0:
            drafts = self._follow(rows, most)
            if drafts is not None:
                return drafts
        return self._draw(rows, most)

    def _follow(self, rows: Sequence[Row], most: Sequence[int]) -> Drafts | None:
        """Draft all tokens in one call, if the model can, and cut each row's draft where `_draw` would end it."""
        found = self._sources.draft(str(self.source), [row.tokens for row in rows], max(most))
        if found is None:
            return None
        logits, ids = found
        values = logprobs(logits.flatten(0, 1), ids.flatten().clamp(max=logits.shape[-1] - 1)).view(ids.shape)
        drafts = Drafts([[] for _ in rows], self.source, logits, logits)
        for draft, row, limit, *drafted in zip(drafts.tokens, rows, most, ids.tolist(), values.tolist(), strict=True):
            for token_id, logprob in zip(*drafted, strict=True):
                if token_id >= self._sources.width or not math.isfinite(logprob):
                    break
                draft.append(token_id)
                if len(draft) == limit or not self._goes_on(row, token_id, logprob):
                    break
        return drafts

    def _goes_on(self, row: Row, token_id: int, logprob: float) -> bool:
        return math.exp(logprob) >= self._confidence and token_id not in row.ending.token_ids

    def _draw(self, rows: Sequence[Row], most: Sequence[int]) -> Drafts:
        """Draft token by token."""
        drafts = Drafts([[] for _ in rows], self.source)
        logits_by_place, scores_by_place = [], []
        drafting = [number for number, limit in enumerate(most) if limit > 0]
        texts = [list(row.tokens) for row in rows] if drafting else []
        while drafting:
            logits = self._read(texts, drafting)
            scores = self._loop.allowed(logits, drafts.tokens)
            logits_by_place.append(logits)
            scores_by_place.append(scores)
            draws = Draws([rows[number].generator for number in drafting], drafting, len(rows))
            scores = _rows_of(scores, drafting)
            ids = self._strategy.choose(scores, draws)
            still = []
            for number, token_id, logprob in zip(drafting, ids.tolist(), logprobs(scores, ids).tolist(), strict=True):
                if not math.isfinite(logprob):
                    continue  # no distribution: the draft model is broken, or the processors leave it nothing
                draft = drafts.tokens[number]
                draft.append(token_id)
                texts[number].append(token_id)
                if len(draft) < most[number] and self._goes_on(rows[number], token_id, logprob):
                    still.append(number)
            drafting = still
        if logits_by_place:
            drafts.logits, drafts.scores = torch.stack(logits_by_place, 1), torch.stack(scores_by_place, 1)
        return drafts

    def _room(self, row: Row) -> int:
        """Return how many tokens the model can draft for a row: it may know fewer tokens, or hold fewer of them."""
        if self._model.width < self._sources.width and max(row.tokens) >= self._model.width:
            return 0
        return row.limit if self._model.context is None else self._model.context - len(row.tokens)

    def _read(self, texts: Sequence[Sequence[int]], drafting: Sequence[int]) -> Tensor:
        """Return logits `[rows, vocab]` at the ends of the texts; rows that draft no more read their last token again.

        A pass takes all rows. One that advanced for no purpose would have to be rolled back, and might not fit.
        """
        if len(drafting) < len(texts):
            held = self._model.lengths
            ends = [max(length, 1) for length in held]
            for number in drafting:
                ends[number] = len(texts[number])
            self._model.truncate([min(length, end - 1) for length, end in zip(held, ends, strict=True)])
            # A row whose first token the model lacks never drafts, and must not be read: any token stands for it.
            readable = [text if text[0] < self._model.width else [0] for text in texts]
            texts = [text[:end] for text, end in zip(readable, ends, strict=True)]
        return self._sources.read((str(self.source),), texts)[str(self.source)][:, 0]


class TextDrafter(Drafter):
    """Drafts with a model of another tokenizer: it writes text, which is then read in the expert's tokens.

    As in transformers' universal assisted generation; a draft is verified as one that was looked up.

    Parameters
    ----------
    model
        The model.
    confidence
        A row's draft ends with a token to which its source gives less probability than this.
    """

    def __init__(self, model: ByteSource, confidence: float) -> None:
        self._model = model
        self._confidence = confidence

    def propose(self, rows: Sequence[Row], most: Sequence[int]) -> Drafts:
        if not any(most):
            return Drafts([[] for _ in rows])
        return Drafts(self._model.draft([row.tokens for row in rows], most, self._confidence))


class LookupDrafter(Drafter):
    """Drafts what followed the row's last tokens when they occurred before; no model.

    Yang et al. 2023, "Inference with Reference" (arXiv 2304.04487); Saxena 2023, "Prompt Lookup Decoding".

    Parameters
    ----------
    ngram
        How many last tokens are looked up at most; shorter endings are tried where longer ones are new.
    """

    def __init__(self, ngram: int) -> None:
        self._ngram = ngram
        self._indices: dict[int, _NGramIndex] = {}

    def propose(self, rows: Sequence[Row], most: Sequence[int]) -> Drafts:
        self._indices = {row.index: self._indices.get(row.index) or _NGramIndex(self._ngram) for row in rows}
        return Drafts(
            [self._indices[row.index].look_up(row.tokens, limit) for row, limit in zip(rows, most, strict=True)]
        )


class _NGramIndex:
    """Where each n-gram of one growing text was last followed by another token."""

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._ends: dict[tuple[int, ...], int] = {}
        self._indexed = 0

    def look_up(self, tokens: Sequence[int], limit: int) -> list[int]:
        """Return at most `limit` tokens that followed the last occurrence of the text's longest known ending."""
        for end in range(self._indexed + 1, len(tokens)):
            for size in range(1, min(self._longest, end) + 1):
                self._ends[tuple(tokens[end - size : end])] = end
        self._indexed = max(self._indexed, len(tokens) - 1)
        for size in range(min(self._longest, len(tokens)), 0, -1):
            found = self._ends.get(tuple(tokens[-size:]))
            if found is not None:
                return list(tokens[found : found + limit])
        return []


def _rows_of(values: Tensor, rows: Sequence[int]) -> Tensor:
    return values if len(rows) == len(values) else values[list(rows)]

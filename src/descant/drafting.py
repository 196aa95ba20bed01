"""Guessing the next tokens cheaply, so that the expert can verify several of them in one pass."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from descant.distribution import process
from descant.history import HistoryBuffer
from descant.models.base import ByteSource
from descant.models.sources import Sources
from descant.processors.base import Processor
from descant.rows import Row
from descant.strategies import Draws, Proposal, Strategy


@dataclass
class Drafts:
    """Tokens drafted in one round.

    Attributes
    ----------
    tokens
        By row: what was drafted, perhaps nothing.
    source
        The source that drafted, if it is one; it has read all drafts of a row but the last.
    logits
        By place, `[rows, vocab]`: what the source's logits were; meaningless for rows whose draft had ended.
    scores
        The same after the processors: the drafts were chosen from these.
    """

    tokens: list[list[int]]
    source: str | None = None
    logits: list[Float[Tensor, "rows vocab"]] = field(default_factory=list)
    scores: list[Float[Tensor, "rows vocab"]] = field(default_factory=list)

    @property
    def longest(self) -> int:
        """The most tokens drafted for a row."""
        return max(map(len, self.tokens))

    @property
    def positions(self) -> tuple[list[int], list[int]]:
        """Row and place of every drafted token, row by row."""
        pairs = [(row, place) for row, draft in enumerate(self.tokens) for place in range(len(draft))]
        return [row for row, _ in pairs], [place for _, place in pairs]

    def at_positions(self, by_place: Sequence[Float[Tensor, "rows vocab"]]) -> Float[Tensor, "n vocab"]:
        """Return `[n, vocab]` at the positions of the drafted tokens."""
        return torch.stack([by_place[place][row] for row, place in zip(*self.positions, strict=True)])

    def proposal(self, device: torch.device) -> Proposal:
        """Return the drafted tokens, and the scores they were drawn from, position by position."""
        ids = torch.tensor([token for draft in self.tokens for token in draft], device=device)
        return Proposal(ids, lambda: self.at_positions(self.scores) if self.scores else None)


class Drafter(ABC):
    """Proposes tokens for rows; what it proposes changes the speed and never the text."""

    source: str | None = None

    @abstractmethod
    def propose(self, rows: Sequence[Row], most: Sequence[int]) -> Drafts:
        """Draft at most `most[i]` tokens for row i, and write them behind its history."""


class ModelDrafter(Drafter):
    """Drafts with a model that reads the rows token by token.

    Parameters
    ----------
    sources, source
        The models, and which of them drafts.
    processors, history
        Of the decode: a draft that they would forbid is never proposed. The history may be None without processors.
    strategy
        How a draft is chosen: as the tokens themselves are.
    confidence
        A row's draft ends with a token to which its source gives less probability than this.
    """

    def __init__(
        self,
        sources: Sources,
        source: str,
        processors: Sequence[Processor],
        history: HistoryBuffer | None,
        strategy: Strategy,
        confidence: float,
    ) -> None:
        self.source = source
        self._sources = sources
        self._model = sources.model(source)
        self._processors = processors
        self._history = history
        self._strategy = strategy
        self._confidence = confidence

    def propose(self, rows: Sequence[Row], most: Sequence[int]) -> Drafts:
        drafts = Drafts([[] for _ in rows], self.source)
        most = [min(limit, self._room(row)) for row, limit in zip(rows, most, strict=True)]
        drafting = [number for number, limit in enumerate(most) if limit > 0]
        while drafting:
            logits = self._read(rows, drafts.tokens, drafting)
            history = None
            if self._history is not None:
                self._history.write(drafts.tokens)
                history = self._history.before(range(len(rows)), [len(draft) for draft in drafts.tokens])
            scores, total = process(self._processors, history, logits, logits)
            drafts.logits.append(logits)
            drafts.scores.append(scores)
            draws = Draws([rows[number].generator for number in drafting], drafting, len(rows))
            ids = self._strategy.choose(_rows_of(scores, drafting), draws)
            logprobs = _rows_of(scores, drafting).gather(-1, ids[:, None])[:, 0] - _rows_of(total, drafting)
            still = []
            for number, token_id, logprob in zip(drafting, ids.tolist(), logprobs.tolist(), strict=True):
                if not math.isfinite(logprob):
                    continue  # no distribution: the draft model is broken, or the processors leave it nothing
                draft = drafts.tokens[number]
                draft.append(token_id)
                sure = math.exp(logprob) >= self._confidence
                if sure and len(draft) < most[number] and token_id not in rows[number].ending.token_ids:
                    still.append(number)
            drafting = still
        if self._history is not None:
            self._history.write(drafts.tokens)
        return drafts

    def _room(self, row: Row) -> int:
        """Return how many tokens the model can draft for a row: it may know fewer tokens, or hold fewer of them."""
        if self._model.width < self._sources.width and max(row.tokens) >= self._model.width:
            return 0
        return row.limit if self._model.context is None else self._model.context - len(row.tokens)

    def _read(self, rows: Sequence[Row], drafts: Sequence[Sequence[int]], drafting: Sequence[int]) -> Tensor:
        """Return logits `[rows, vocab]` at the ends of the drafts; rows that draft no more read their last token again.

        A pass takes all rows. One that advanced for no purpose would have to be rolled back, and might not fit.
        """
        held = list(self._model.lengths)
        ends = [max(length, 1) for length in held]
        for number in drafting:
            ends[number] = len(rows[number].tokens) + len(drafts[number])
        before = [min(length, end - 1) for length, end in zip(held, ends, strict=True)]
        if before != held:
            self._model.truncate(before)
        texts = [[*row.tokens, *draft][:end] for row, draft, end in zip(rows, drafts, ends, strict=True)]
        return self._sources.read((str(self.source),), texts)[str(self.source)][:, 0]


class TextDrafter(Drafter):
    """Drafts with a model of another tokenizer: it writes text, which is then read in the expert's tokens.

    As in transformers' universal assisted generation; a draft is verified as one that was looked up.

    Parameters
    ----------
    model
        The model.
    history, confidence
        As above.
    """

    def __init__(self, model: ByteSource, history: HistoryBuffer | None, confidence: float) -> None:
        self._model = model
        self._history = history
        self._confidence = confidence

    def propose(self, rows: Sequence[Row], most: Sequence[int]) -> Drafts:
        drafts = Drafts([[] for _ in rows])
        if any(most):
            drafts = Drafts(self._model.draft([row.tokens for row in rows], most, self._confidence))
        if self._history is not None:
            self._history.write(drafts.tokens)
        return drafts


class LookupDrafter(Drafter):
    """Drafts what followed the row's last tokens when they occurred before; no model.

    Yang et al. 2023, "Inference with Reference" (arXiv 2304.04487); Saxena 2023, "Prompt Lookup Decoding".

    Parameters
    ----------
    history
        As above.
    ngram
        How many last tokens are looked up at most; shorter endings are tried where longer ones are new.
    """

    def __init__(self, history: HistoryBuffer | None, ngram: int) -> None:
        self._history = history
        self._ngram = ngram
        self._indices: dict[int, _NGramIndex] = {}

    def propose(self, rows: Sequence[Row], most: Sequence[int]) -> Drafts:
        self._indices = {row.index: self._indices.get(row.index) or _NGramIndex(self._ngram) for row in rows}
        drafts = Drafts(
            [self._indices[row.index].look_up(row.tokens, limit) for row, limit in zip(rows, most, strict=True)]
        )
        if self._history is not None:
            self._history.write(drafts.tokens)
        return drafts


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

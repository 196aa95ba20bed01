"""The loop.

One step reads the sources up to the end of every active row, scores the next tokens, lets the processors change
the scores, and has the strategy choose. Rows join and leave between steps; nothing else in descant iterates over
tokens.

    texts → Sources.read → Scoring → Processors → Strategy.choose → Row.append
"""

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from descant import choice
from descant.distribution import process
from descant.errors import DecodingError
from descant.models.sources import Sources
from descant.processors.base import History, Processor
from descant.rows import Row
from descant.scoring.base import Scoring
from descant.strategies.base import Draws, Strategy
from descant.trace import TraceText, trace_tokens
from descant.types import Logits

_SELECTIVE_ROWS = 4
"""Rows up to which leaving out the amateur pays: it is run as soon as one row needs it."""


@dataclass(frozen=True)
class Method:
    """A decoding method: the answers to the three questions.

    Attributes
    ----------
    scoring
        What is a good next token?
    processors
        Which tokens are allowed? Applied in this order.
    strategy
        How does the sequence grow?
    """

    scoring: Scoring
    processors: tuple[Processor, ...]
    strategy: Strategy


class Engine:
    """Decodes rows together, each as if it were alone.

    Parameters
    ----------
    sources
        The models, without rows.
    method
        How to decode.
    batch_rows
        Rows of the whole call, for strategies that draw for all of them.
    max_rows
        How many rows are decoded at once; others wait.
    top_logprobs
        How many of the most probable tokens each step records.
    trace
        Text of a token by itself, if each step is to record why its token was chosen; else None.
    """

    def __init__(
        self,
        sources: Sources,
        method: Method,
        *,
        batch_rows: int,
        max_rows: int,
        top_logprobs: int = 0,
        trace: TraceText | None = None,
    ) -> None:
        self.sources = sources
        self.method = method
        self.batch_rows = batch_rows
        self.max_rows = max_rows
        self.top_logprobs = top_logprobs
        self.trace = trace
        self.rows: list[Row] = []
        self.waiting: deque[Row] = deque()
        self._history = _HistoryBuffer() if method.processors else None

    @property
    def busy(self) -> bool:
        """Whether any row is unfinished."""
        return bool(self.rows or self.waiting)

    def add(self, rows: Iterable[Row]) -> None:
        """Queue rows; they join at the next step, while there is room."""
        self.waiting.extend(row for row in rows if row.finish_reason is None)

    def cancel(self) -> list[Row]:
        """End every row where it stands, and return them."""
        ended = [*self.rows, *self.waiting]
        for row in ended:
            row.finish("cancelled")
        self.waiting.clear()
        self._retire()
        return ended

    @torch.inference_mode()
    def step(self) -> list[Row]:
        """Choose one token for every active row, and return those rows; some may have ended."""
        self._admit()
        rows = self.rows
        logits, raw = self._score()
        history = self._history.view() if self._history is not None else None
        scores, total = process(self.method.processors, history, raw, logits["expert"])
        self._check(logits, scores, total)
        draws = Draws([row.generator for row in rows], [row.index for row in rows], self.batch_rows)
        ids = self.method.strategy.choose(scores, draws)
        chosen = scores.gather(-1, ids[:, None])[:, 0] - total
        self._record(logits, raw, scores, ids)
        if self._history is not None:
            self._history.append(ids)
        for row, token_id, logprob in zip(rows, ids.tolist(), chosen.tolist(), strict=True):
            row.append(token_id, logprob)
        self._retire()
        return rows

    def _admit(self) -> None:
        joining: list[Row] = []
        while self.waiting and len(self.rows) + len(joining) < self.max_rows:
            joining.append(self.waiting.popleft())
        if not joining:
            return
        self.rows = [*self.rows, *joining]
        self.sources.add_rows(len(joining))
        self.sources.reserve(len(self.rows), max(row.limit for row in self.rows))
        if self._history is not None:
            self._history.add_rows(joining, self.sources.device)

    def _retire(self) -> None:
        kept = [place for place, row in enumerate(self.rows) if row.finish_reason is None]
        if len(kept) == len(self.rows):
            return
        self.rows = [self.rows[place] for place in kept]
        self.sources.keep_rows(kept)
        if self._history is not None:
            self._history.keep_rows(kept)

    def _score(self) -> tuple[Mapping[str, Logits], Float[Tensor, "n vocab"]]:
        """Return the sources' logits `[n, vocab]` by name, and the scoring's verdict on them."""
        scoring = self.method.scoring
        texts = [row.tokens for row in self.rows]
        names = scoring.sources
        if not self._may_skip():
            logits = {name: read[:, 0] for name, read in self.sources.read(names, texts).items()}
            return logits, scoring(logits)
        expert = self.sources.read(("expert",), texts)["expert"][:, 0]
        if bool(scoring.settled(expert).all()):
            only = torch.full_like(expert, -math.inf)
            best = expert.argmax(-1, keepdim=True)
            # NaN stays visible: the only score of a row is its best logit less itself.
            value = expert.gather(-1, best)
            return {"expert": expert}, only.scatter(-1, best, value - value)
        others = self.sources.read(names[1:], texts)
        logits = {"expert": expert, **{name: read[:, 0] for name, read in others.items()}}
        return logits, scoring(logits)

    def _may_skip(self) -> bool:
        """Whether steps that the expert settles alone leave the amateur out; it catches up later."""
        scoring = self.method.scoring
        if len(scoring.sources) == 1 or self.trace is not None or not self.sources.amateur_costs_a_pass:
            return False
        if scoring.skips_settled is not None:
            return scoring.skips_settled
        return len(self.rows) <= _SELECTIVE_ROWS

    def _check(
        self, logits: Mapping[str, Logits], scores: Float[Tensor, "n vocab"], total: Float[Tensor, " n"]
    ) -> None:
        """Raise if a row's scores define no distribution: name the source that broke, or the processors."""
        for place, (row, weight) in enumerate(zip(self.rows, total.tolist(), strict=True)):
            if math.isfinite(weight):
                continue
            where = f"at step {len(row.logprobs)} of row {row.index}"
            if float(scores[place].amax()) == -math.inf:
                raise DecodingError(
                    f"the processors forbid every token {where}; allow more tokens (bad words, logit bias and bans "
                    "exclude the whole vocabulary)"
                )
            broken = [name for name, values in logits.items() if not values[place].isfinite().all()]
            source = f"logits of the {' and the '.join(broken)}" if broken else "scores after the processors"
            raise DecodingError(
                f"the {source} are not finite numbers {where}; the checkpoint is damaged or overflows its dtype: try "
                'dtype="float32"'
            )

    def _record(
        self,
        logits: Mapping[str, Logits],
        raw: Float[Tensor, "n vocab"],
        scores: Float[Tensor, "n vocab"],
        ids: Tensor,
    ) -> None:
        """Keep what was asked for beside the tokens."""
        if self.top_logprobs:
            best, logprobs = choice.top(scores, self.top_logprobs)
            for row, row_ids, row_logprobs in zip(self.rows, best.tolist(), logprobs.tolist(), strict=True):
                row.top_logprobs.append(list(zip(row_ids, row_logprobs, strict=True)))
        if self.trace is not None:
            for row, entry in zip(self.rows, trace_tokens(logits, raw, ids, self.trace), strict=True):
                row.trace.append(entry)


class _HistoryBuffer:
    """The texts of the active rows as one tensor on the device, extended token by token."""

    def __init__(self) -> None:
        self._tokens = torch.zeros(0, 0, dtype=torch.int64)
        self._lengths: list[int] = []
        self._prompt_lengths: list[int] = []

    def view(self) -> History:
        device = self._tokens.device
        return History(
            self._tokens[:, : max(self._lengths)],
            torch.tensor(self._lengths, device=device),
            torch.tensor(self._prompt_lengths, device=device),
        )

    def add_rows(self, rows: Sequence[Row], device: torch.device) -> None:
        held = len(self._lengths)
        self._resize(held + len(rows), max(len(row.tokens) for row in rows), device)
        for place, row in enumerate(rows, start=held):
            self._tokens[place, : len(row.tokens)] = torch.tensor(row.tokens)
        self._lengths += [len(row.tokens) for row in rows]
        self._prompt_lengths += [row.prompt_length for row in rows]

    def _resize(self, rows: int, width: int, device: torch.device) -> None:
        """Make room for rows and for tokens, of which there is half as much again."""
        if width > self._tokens.shape[1]:
            width = width + width // 2 + 16
        grown = torch.zeros(rows, max(width, self._tokens.shape[1]), dtype=torch.int64, device=device)
        grown[: len(self._lengths), : self._tokens.shape[1]] = self._tokens[: len(self._lengths)]
        self._tokens = grown

    def keep_rows(self, rows: Sequence[int]) -> None:
        self._tokens = self._tokens[list(rows)]
        self._lengths = [self._lengths[row] for row in rows]
        self._prompt_lengths = [self._prompt_lengths[row] for row in rows]

    def append(self, ids: Tensor) -> None:
        if max(self._lengths) == self._tokens.shape[1]:
            self._resize(len(self._lengths), max(self._lengths) + 1, self._tokens.device)
        places = torch.arange(len(self._lengths), device=self._tokens.device)
        self._tokens[places, torch.tensor(self._lengths, device=self._tokens.device)] = ids
        self._lengths = [length + 1 for length in self._lengths]

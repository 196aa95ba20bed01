"""The loop.

One step lets the strategy read the sources up to the end of every active row, have the next tokens scored and
processed, and choose. Where tokens were drafted, the same is done at every drafted position first, and drafts stand as
long as the strategy would emit them. Rows join and leave between steps; nothing else in descant iterates over tokens.

    Engine.step → Growth.step → Sources.read → Scoring → Processors → Strategy → Row.append
"""

import math
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from descant.engine.captured import RunAhead
from descant.engine.judge import exactly, judge
from descant.engine.read import Reading
from descant.engine.trace import TraceText, trace_tokens
from descant.method import Method
from descant.numerics import choose
from descant.processors.history import HistoryBuffer
from descant.processors.process import process
from descant.rows import Row
from descant.sources.sources import Sources
from descant.strategies.drafts import Drafts
from descant.strategies.growth import Judged, Loop
from descant.types import Chosen, Logits

_SELECTIVE_ROWS = 4
"""Rows up to which leaving out a source pays: it is run as soon as one row needs it."""


class Engine(Loop):
    """Decodes rows together, each as if it were alone.

    Parameters
    ----------
    sources
        The models, without rows; one named `"draft"` drafts for a speculative strategy, or else the amateur does.
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
    observe
        Told of each token: its row, and of its position the scores and the expert's logits, `[vocab]` each.
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
        observe: Callable[[Row, Tensor, Tensor], None] | None = None,
    ) -> None:
        self.sources = sources
        self.method = method
        self.batch_rows = batch_rows
        self.max_rows = max_rows
        self.top_logprobs = top_logprobs
        self.trace = trace
        self.observe = observe
        self.rows: list[Row] = []
        self.waiting: deque[Row] = deque()
        self.scoring, self.processors = method.scoring, method.processors
        self.history = HistoryBuffer() if method.processors else None
        self._run_ahead: RunAhead | None = None
        if trace is None and observe is None and not top_logprobs:
            self._run_ahead = RunAhead.of(sources, method)
        self._exactly = exactly(method, shown=trace is not None or observe is not None)
        self._reading: Reading | None = None
        self._growth = method.strategy.start(self)

    @property
    def busy(self) -> bool:
        """Whether any row is unfinished."""
        return bool(self.rows or self.waiting)

    def add(self, rows: Iterable[Row]) -> None:
        """Queue rows; they join at the next step, while there is room."""
        self.waiting.extend(row for row in rows if row.finish_reason is None)

    @torch.inference_mode()  # the models' buffers are made in it, and change in it alone
    def cancel(self, rows: Collection[Row] | None = None) -> list[Row]:
        """End rows where they stand, all unless some are named, and return them. A beam search ends as a whole."""
        ended = self._growth.cancel()
        if ended is None:
            ended = [row for row in (*self.rows, *self.waiting) if rows is None or row in rows]
        else:
            ended = [*ended, *self.waiting]
        for row in ended:
            if row.finish_reason is None:
                row.finish("cancelled")
        self.waiting = deque(row for row in self.waiting if row.finish_reason is None)
        self._retire()
        return ended

    @torch.inference_mode()
    def step(self) -> list[Row]:
        """Let every active row grow, and return those of which something is certain; some may have ended."""
        self._admit()
        chosen = None if self._run_ahead is None else self._run_ahead.step(self.rows)
        if chosen is not None:
            grown = self.rows
            for row, (token_id, logprob) in zip(grown, chosen, strict=True):
                row.append(token_id, logprob)
        else:
            if self.history is not None:
                self.history.follow([row.tokens for row in self.rows])
            self._reading = None
            grown = self._growth.step()
        self._retire()
        return grown

    def judge_drafts(self, drafts: Drafts) -> Judged:
        return self._judge(self._read(drafts).at_drafts(), *drafts.positions)

    def judge_ends(
        self,
        rows: Sequence[int] | None = None,
        drafts: Drafts | None = None,
        *,
        known: Mapping[str, Logits] | None = None,
        few: bool = False,
    ) -> Judged:
        rows = range(len(self.rows)) if rows is None else rows
        drafts = drafts or Drafts([[] for _ in self.rows])
        ahead = [len(drafts.tokens[number]) for number in rows]
        few = few and not self.top_logprobs and self.observe is None
        return self._judge(self._read(drafts, known).at_ends(rows), rows, ahead, few=few)

    def allowed(self, logits: Logits, drafted: Sequence[Sequence[int]]) -> Logits:
        if self.history is None:
            return logits
        self.history.write(drafted)
        history = self.history.before(range(len(self.rows)), [len(draft) for draft in drafted])
        return process(self.processors, history, logits, logits)

    def _judge(
        self, logits: Mapping[str, Logits], rows: Sequence[int], ahead: Sequence[int], *, few: bool = False
    ) -> Judged:
        """Judge positions that lie `ahead[i]` drafted tokens beyond the text of row `rows[i]`."""
        history = self.history.before(rows, ahead) if self.history is not None else None
        return judge(self.method, logits, history, rows, few=few)

    def replace_rows(self, rows: list[Row], places: Sequence[int]) -> None:
        if list(places) != list(range(len(self.rows))):
            self._keep_rows(places)
        self.rows = rows

    def _read(self, drafts: Drafts, known: Mapping[str, Logits] | None = None) -> Reading:
        """Return the reading of this step; all of it is of the same drafts."""
        if self._reading is None:
            # Steps that run ahead were launched before the host knew what it could save.
            skips = self.trace is None and self._run_ahead is None and len(self.rows) <= _SELECTIVE_ROWS
            self._reading = Reading(
                self.sources, self.scoring, self.rows, drafts, known or {}, exactly=self._exactly, skips=skips
            )
        return self._reading

    def emit(self, judged: Judged, places: Chosen, drafted: Sequence[int] | None = None) -> set[int]:
        expected: Sequence[int | None] = drafted or [None] * len(judged.rows)
        values = zip(judged.rows, *judged.tokens(places), expected, strict=True)
        departed: set[int] = set()
        emitted = []
        for position, (number, token_id, logprob, draft) in enumerate(values):
            if number in departed:
                continue
            row = self.rows[number]
            if not math.isfinite(logprob):
                judged.fail(position, row)
            row.append(token_id, logprob)
            emitted.append((row, position, token_id))
            if token_id != draft or row.finish_reason is not None:
                departed.add(number)
        self.record(judged, emitted)
        return departed

    def record(self, judged: Judged, emitted: Sequence[tuple[Row, int, int]]) -> None:
        positions = [position for _, position, _ in emitted]
        if self.observe is not None:
            for row, position, _ in emitted:
                self.observe(row, judged.scores[position], judged.logits["expert"][position])
        if self.sources.layers_run is not None:
            for row, position, _ in emitted:
                layers = self.sources.layers_run[judged.rows[position]]
                row.exit_layers.append(layers[len(row.exit_layers)])
        if self.top_logprobs:
            best, best_logprobs = choose.top(judged.scores[positions], self.top_logprobs)
            for (row, _, _), row_ids, row_logprobs in zip(emitted, best.tolist(), best_logprobs.tolist(), strict=True):
                row.top_logprobs.append(list(zip(row_ids, row_logprobs, strict=True)))
        if self.trace is not None:
            logits = {name: values[positions] for name, values in judged.logits.items()}
            ids = torch.tensor([token_id for _, _, token_id in emitted], device=judged.raw.device)
            bytewise = "amateur" in self.sources.bridges
            traced = trace_tokens(logits, judged.raw[positions], ids, self.trace, bytewise=bytewise)
            for (row, _, _), entry in zip(emitted, traced, strict=True):
                row.trace.append(entry)

    def _admit(self) -> None:
        joining: list[Row] = []
        width = self.method.strategy.rows
        while self.waiting and (len(self._growth) + len(joining) + 1) * width <= self.max_rows:
            joining.append(self.waiting.popleft())
        if not joining:
            return
        if self._run_ahead is not None:
            self._run_ahead.forget()
        self.rows = [*self.rows, *joining]
        self._growth.join(joining)
        if self.history is not None:
            texts, places = [row.tokens for row in joining], [row.index for row in joining]
            self.history.add_rows(texts, places, self.sources.device)

    def _retire(self) -> None:
        kept = [place for place, row in enumerate(self.rows) if row.finish_reason is None]
        if len(kept) < len(self.rows):
            self.replace_rows([self.rows[place] for place in kept], kept)

    def _keep_rows(self, rows: Sequence[int]) -> None:
        """Make old row `rows[i]` the new row i, in the models and what is kept beside them."""
        if self._run_ahead is not None:
            self._run_ahead.forget()
        self._growth.keep_rows(rows)
        if self.history is not None:
            self.history.keep_rows(rows)

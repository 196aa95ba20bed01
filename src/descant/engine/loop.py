"""The loop.

One step reads the sources up to the end of every active row, scores the next tokens, lets the processors change
the scores, and has the strategy choose. Where tokens were drafted, the same is done at every drafted position first,
and drafts stand as long as the strategy would emit them. Rows join and leave between steps; nothing else in descant
iterates over tokens.

    texts → Drafter.propose → Sources.read → Scoring → Processors → Strategy → Row.append
                                              beams: Hypotheses.grow; contrastive search: Lookahead.choose
"""

import math
import operator
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence

import torch
from torch import Tensor

from descant.engine.beams import Hypotheses, settle
from descant.engine.captured import RunAhead
from descant.engine.draft import Drafter, Drafts, LookupDrafter, ModelDrafter, TextDrafter
from descant.engine.draft_length import DraftLength, Round
from descant.engine.history import HistoryBuffer
from descant.engine.judge import Judge, Judged
from descant.engine.lookahead import Lookahead
from descant.engine.read import Reading
from descant.engine.rows import Row
from descant.engine.trace import TraceText, trace_tokens
from descant.errors import DecodingError
from descant.method import Method
from descant.numerics import choose
from descant.numerics.wide import log_total
from descant.sources.sources import Sources
from descant.strategies import Beam, ContrastiveSearch, Draws, PromptLookup, Speculative, TokenStrategy
from descant.types import Chosen


class Engine:
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
        self._history = HistoryBuffer() if method.processors else None
        self._drafter: Drafter | None = None
        strategy = method.strategy
        if isinstance(strategy, Speculative):
            self._drafter = self._make_drafter(strategy)
            self._length = DraftLength.of(strategy.tokens)
        self._beams = Hypotheses(strategy, batch_rows) if isinstance(strategy, Beam) else None
        self._run_ahead: RunAhead | None = None
        if trace is None and observe is None and not top_logprobs:
            self._run_ahead = RunAhead.of(sources, method.scoring, method.processors, strategy)
        self._lookahead = Lookahead(strategy, sources) if isinstance(strategy, ContrastiveSearch) else None
        self._judge = Judge(
            sources,
            method,
            self._history,
            traced=trace is not None,
            observed=observe is not None,
            ahead=self._run_ahead is not None,
        )

    def _make_drafter(self, strategy: Speculative) -> Drafter:
        if isinstance(strategy.draft, PromptLookup):
            return LookupDrafter(self._history, strategy.draft.ngram)
        source = "draft" if "draft" in self.sources.others else "amateur"
        if source in self.sources.bridges:
            return TextDrafter(self.sources.bridges[source], self._history, strategy.confidence)
        processors = self.method.processors
        return ModelDrafter(self.sources, source, processors, self._history, strategy.base, strategy.confidence)

    @property
    def speculative(self) -> bool:
        """Whether tokens are drafted and verified."""
        return self._drafter is not None

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
        ended = [row for row in (*self.rows, *self.waiting) if rows is None or row in rows]
        if self._beams is not None:
            ended = [*self._beams.cancel(), *self.waiting]
            self._keep(())
        for row in ended:
            if row.finish_reason is None:
                row.finish("cancelled")
        self.waiting = deque(row for row in self.waiting if row.finish_reason is None)
        self._retire()
        return ended

    @torch.inference_mode()
    def step(self) -> list[Row]:
        """Give every active row a token, or several that were drafted, and return those rows; some may have ended.

        Of a beam search only what has ended is returned: before that, no token of it is certain.
        """
        self._admit()
        rows = self.rows
        if self._run_ahead is not None:
            chosen = self._run_ahead.step(rows)
            if chosen is not None:
                for row, (token_id, logprob) in zip(rows, chosen, strict=True):
                    row.append(token_id, logprob)
                self._retire()
                return rows
        if self._history is not None:
            self._history.follow([row.tokens for row in rows])
        lengths = [len(row.tokens) for row in rows]
        steady = all(row.logprobs for row in rows)
        drafts = self._draft()
        reading = Reading(self.sources, rows, drafts, self._judge.candidates, narrow=self._judge.narrow)
        unfinished = self._verify(reading, drafts)
        if self._beams is not None:
            rows = self._branch(reading, self._beams)
        elif self._lookahead is not None:
            self._look_ahead(self._lookahead)
        else:
            self._choose(reading, drafts, unfinished)
        if self._drafter is not None:
            if drafts.longest:
                self.sources.rewind([len(row.tokens) - 1 for row in rows])
            self._end_round(drafts, lengths, steady=steady)
        self._retire()
        return rows

    def _draft(self) -> Drafts:
        """Have tokens drafted, for all rows but those that have no token of their own yet: the first one is urgent."""
        if self._drafter is None:
            return Drafts([[] for _ in self.rows])
        tokens = self._length.start_round()
        if not tokens:
            return Drafts([[] for _ in self.rows])
        most = [min(tokens, row.limit - len(row.tokens) - 1) if row.logprobs else 0 for row in self.rows]
        return self._drafter.propose(self.rows, most)

    def _end_round(self, drafts: Drafts, lengths: Sequence[int], *, steady: bool) -> None:
        """Count what was drafted and accepted, and learn from it how much to draft."""
        drafted, accepted = [], []
        for row, draft, length in zip(self.rows, drafts.tokens, lengths, strict=True):
            stands = sum(map(operator.eq, row.tokens[length : length + len(draft)], draft)) if draft else 0
            row.speculation = row.speculation.after_round(len(draft), stands)
            drafted.append(len(draft))
            accepted.append(stands)
        self._length.end_round(Round(drafted, accepted, steady and drafts.caught_up))

    def _verify(self, reading: Reading, drafts: Drafts) -> list[int]:
        """Emit the drafts that stand, and what replaces the first that does not; return the rows that go on."""
        rows, places = drafts.positions
        if not rows:
            return list(range(len(self.rows)))
        assert isinstance(self.method.strategy, Speculative)
        judged = self._judge(reading.at_drafts, rows, places, drafts.source, active=len(self.rows))
        proposal = drafts.proposal(judged.scores.device)
        ids = self.method.strategy.verify(judged.scores, proposal, self._draws(rows))
        departed = self._emit(judged, ids, [token for draft in drafts.tokens for token in draft])
        return [number for number in range(len(self.rows)) if number not in departed]

    def _choose(self, reading: Reading, drafts: Drafts, rows: Sequence[int]) -> None:
        """Emit one token more for each of some rows: all there is, in plain decoding."""
        if not rows:
            return
        assert isinstance(self.method.strategy, TokenStrategy)
        ahead = [len(drafts.tokens[number]) for number in rows]
        few = self.method.strategy.of_allowed and not self.top_logprobs and self.observe is None
        judged = self._judge(lambda name: reading.at_ends(name, rows), rows, ahead, active=len(self.rows), few=few)
        self._emit(judged, self.method.strategy.choose(judged.scores, self._draws(rows)), [None] * len(rows))

    def _look_ahead(self, ahead: Lookahead) -> None:
        """Emit one token for each row, of several that are read first."""
        every = range(len(self.rows))
        judged = self._judge(lambda name: ahead.logits(name, self.rows), every, [0] * len(every), active=len(every))
        for place, total in enumerate(log_total(judged.scores).tolist()):
            if not math.isfinite(total):
                judged.fail(place, self.rows[place])
        self._emit(judged, ahead.choose(self.rows, judged.scores), [None] * len(every))

    def _branch(self, reading: Reading, beams: Hypotheses) -> list[Row]:
        """Extend all beams by a token, make those that go on the rows, and return what has ended."""
        every = range(len(self.rows))
        judged = self._judge(lambda name: reading.at_ends(name, every), every, [0] * len(every), active=len(every))
        best = judged.scores.amax(-1)
        normalized = not self.method.processors and not self.method.scoring.additive
        totals = (best - best if normalized else log_total(judged.scores)).tolist()  # 0, but NaN stays visible
        for place, total in enumerate(totals):
            if not math.isfinite(total) and float(judged.scores[place].amax()) != -math.inf:
                judged.fail(place, self.rows[place])
        growth = beams.grow(self.rows, judged.scores, totals, judged.logits["expert"])
        if growth.barren:
            [row, *_] = growth.barren
            raise DecodingError(
                f"the processors forbid every continuation of row {row.index}, whose {beams.width} beams have all come "
                "to an end; allow more tokens (bad words, logit bias and bans exclude the whole vocabulary)"
            )
        self._record(judged, [(row, place, row.tokens[-1]) for row, place in growth.made])
        self._keep(growth.beams)
        return growth.outcomes

    def _keep(self, beams: Sequence[tuple[Row, int]]) -> None:
        """Make beams the rows; the models' rows of those they extend follow."""
        kept = settle(beams)
        places = [place for _, place in kept]
        if places != list(range(len(self.rows))):
            self._keep_rows(places)
        self.rows = [row for row, _ in kept]

    def _draws(self, rows: Sequence[int]) -> Draws:
        chosen = [self.rows[number] for number in rows]
        return Draws([row.generator for row in chosen], [row.index for row in chosen], self.batch_rows)

    def _emit(self, judged: Judged, places: Chosen, drafted: Sequence[int | None]) -> set[int]:
        """Append the tokens at some places of the scores, until a row ends or departs from what was drafted.

        Returns
        -------
        The rows that did.
        """
        values = zip(judged.rows, *judged.tokens(places), drafted, strict=True)
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
        self._record(judged, emitted)
        return departed

    def _record(self, judged: Judged, emitted: Sequence[tuple[Row, int, int]]) -> None:
        """Keep what was asked for beside tokens: of each its row, the position that gave it, and the token."""
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
            traced = trace_tokens(logits, judged.raw[positions], ids, self.trace)
            for (row, _, _), entry in zip(emitted, traced, strict=True):
                row.trace.append(entry)

    def _admit(self) -> None:
        joining: list[Row] = []
        width = self.method.strategy.rows
        active = len(self.rows) if self._beams is None else len(self._beams)
        while self.waiting and (active + len(joining) + 1) * width <= self.max_rows:
            joining.append(self.waiting.popleft())
        if not joining:
            return
        if self._run_ahead is not None:
            self._run_ahead.forget()
        self.rows = [*self.rows, *joining]
        if self._beams is not None:
            self._beams.add(joining)
        if self._lookahead is not None:
            self._lookahead.join(self.rows, joining)
        else:
            self.sources.add_rows(len(joining), [row.other_prompts for row in joining])
            self.sources.reserve((active + len(joining)) * width, max(row.limit for row in self.rows))
        if self._history is not None:
            texts, places = [row.tokens for row in joining], [row.index for row in joining]
            self._history.add_rows(texts, places, self.sources.device)

    def _retire(self) -> None:
        kept = [place for place, row in enumerate(self.rows) if row.finish_reason is None]
        if len(kept) == len(self.rows):
            return
        self.rows = [self.rows[place] for place in kept]
        self._keep_rows(kept)

    def _keep_rows(self, rows: Sequence[int]) -> None:
        """Make old row `rows[i]` the new row i, in the models and what is kept beside them."""
        if self._run_ahead is not None:
            self._run_ahead.forget()
        (self._lookahead or self.sources).keep_rows(rows)
        if self._history is not None:
            self._history.keep_rows(rows)

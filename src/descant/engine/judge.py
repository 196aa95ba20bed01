"""What a method makes of the sources' logits at some positions, and which logits it needs for that.

logits of the sources → scoring → processors → scores
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from jaxtyping import Float
from torch import Tensor

from descant.engine.history import HistoryBuffer
from descant.engine.process import Few, logprobs, process, process_few
from descant.engine.rows import Row
from descant.errors import DecodingError
from descant.method import Method
from descant.sources.sources import Sources
from descant.strategies import Beam
from descant.types import Candidates, Chosen, Logits

_SELECTIVE_ROWS = 4
"""Rows up to which leaving out the amateur pays: it is run as soon as one row needs it."""


@dataclass(frozen=True)
class Judged:
    """The verdict on some positions of a step.

    Attributes
    ----------
    rows
        `[n]`: the row of each position.
    logits
        Of the sources, `[n, vocab]` each.
    raw, scores
        `[n, vocab]`: what the scoring made of them, and the processors of that.
    few
        The scores of the tokens that the processors leave, in place of those of all; where that is known and enough.
    """

    rows: Sequence[int]
    logits: Mapping[str, Logits]
    raw: Float[Tensor, "n vocab"]
    scores: Float[Tensor, "n vocab_or_few"]
    few: Few | None = None

    def tokens(self, places: Chosen) -> tuple[Sequence[int], Sequence[float]]:
        """Return the tokens at one place of the scores a position, and their log-probabilities."""
        if self.few is None:
            return places.tolist(), logprobs(self.scores, places).tolist()
        return self.few.tokens.gather(-1, places[:, None])[:, 0].tolist(), self.few.logprobs(places).tolist()

    def fail(self, position: int, row: Row) -> NoReturn:
        """Raise, as a position's scores define no distribution: name the source that broke, or the processors."""
        where = f"at step {len(row.logprobs)} of row {row.index}"
        if float(self.scores[position].amax()) == -math.inf:
            raise DecodingError(
                f"the processors forbid every token {where}; allow more tokens (bad words, logit bias and bans "
                "exclude the whole vocabulary)"
            )
        broken = [name for name, values in self.logits.items() if not values[position].amax().isfinite()]
        source = f"logits of the {' and the '.join(broken)}" if broken else "scores after the processors"
        raise DecodingError(
            f"the {source} are not finite numbers {where}; the checkpoint is damaged or overflows its dtype: try "
            'dtype="float32"'
        )


class Judge:
    """Scores positions by a method, and leaves unread what cannot change the outcome.

    Parameters
    ----------
    sources, method
        As in `Engine`.
    history
        The rows' tokens; None without processors.
    traced
        Whether each step shows what every source said.
    observed
        Whether each step shows its scores.
    ahead
        Whether steps are launched before earlier ones are read, and the host knows nothing that it could save.
    """

    def __init__(
        self,
        sources: Sources,
        method: Method,
        history: HistoryBuffer | None,
        *,
        traced: bool,
        observed: bool,
        ahead: bool,
    ) -> None:
        self._sources = sources
        self._scoring = method.scoring
        self._processors = method.processors
        self._history = history
        self._traced = traced
        self._ahead = ahead
        self._beams = isinstance(method.strategy, Beam)
        self._sums_scores = self._beams and method.scoring.additive
        # A shift of a position's scores changes neither the choice nor log-probabilities, but scores that are shown or
        # summed over steps.
        shifts = all(processor.shift_invariant for processor in method.processors) and not self._sums_scores
        self.narrow = method.scoring.head_suffices and shifts and not traced and not observed

    def __call__(
        self,
        read: Callable[[str], Logits],
        rows: Sequence[int],
        ahead: Sequence[int],
        at_hand: str | None = None,
        *,
        active: int,
        few: bool = False,
    ) -> Judged:
        """Score positions that lie `ahead[i]` drafted tokens beyond the text of row `rows[i]`.

        Parameters
        ----------
        read
            Returns the logits `[n, vocab]` of a source there.
        rows, ahead
            The positions.
        at_hand
            A source that costs nothing to read.
        active
            How many rows are decoded.
        few
            Whether the scores of few tokens are enough, where the processors leave no more.
        """
        logits, raw = self._score(read, at_hand, active)
        fallback = logits["expert"]
        if self._beams:
            fallback = fallback.log_softmax(-1) if self._processors else fallback
            raw = raw if self._scoring.additive else raw.log_softmax(-1)
        history = self._history.before(rows, ahead) if self._history is not None else None
        processed = (process_few if few else process)(self._processors, history, raw, fallback)
        if isinstance(processed, Few):
            return Judged(rows, logits, raw, processed.scores, processed)
        return Judged(rows, logits, raw, processed)

    def candidates(self, expert: Logits) -> Candidates:
        """Tell which tokens another source is asked about: none where the expert settles the matter.

        That is a model with another tokenizer, or a narrowed one.
        """
        head = self._scoring.head(expert)
        assert head is not None
        if self._traced or self._sums_scores or self._scoring.skips_settled is False:
            return head
        return head & ~self._scoring.settled(expert)[..., None]

    def _score(
        self, read: Callable[[str], Logits], at_hand: str | None, active: int
    ) -> tuple[Mapping[str, Logits], Float[Tensor, "n vocab"]]:
        """Return the sources' logits `[n, vocab]` by name, and the scoring's verdict on them."""
        scoring = self._scoring
        expert = read("expert")
        if self._may_skip(at_hand, active) and bool(scoring.settled(expert).all()):
            return {"expert": expert}, scoring.alone(expert)
        logits = {"expert": expert, **{name: read(name) for name in scoring.sources[1:]}}
        logits |= self._sources.byte_totals(logits)
        return logits, scoring(logits)

    def _may_skip(self, at_hand: str | None, active: int) -> bool:
        """Whether steps that the expert settles alone leave the amateur out; it catches up later."""
        if self._traced or self._ahead or self._sums_scores:
            return False  # what a settled token scores is a part of its beam's total
        others = [name for name in self._scoring.sources[1:] if name != at_hand]
        if not others or not all(map(self._sources.costs_a_pass, others)):
            return False
        if self._scoring.skips_settled is not None:
            return self._scoring.skips_settled
        return active <= _SELECTIVE_ROWS

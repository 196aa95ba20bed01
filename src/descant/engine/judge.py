"""What a method makes of the sources' logits at some positions, and which logits it needs for that.

logits of the sources → scoring → processors → scores
"""

from collections.abc import Callable, Mapping, Sequence

from jaxtyping import Float
from torch import Tensor

from descant.method import Method
from descant.processors.history import HistoryBuffer
from descant.processors.process import Few, process, process_few
from descant.sources.sources import Sources
from descant.strategies.growth import Judged
from descant.types import Candidates, Logits

_SELECTIVE_ROWS = 4
"""Rows up to which leaving out the amateur pays: it is run as soon as one row needs it."""


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
        self._summed = method.strategy.sums_scores
        self._sums_scores = self._summed and method.scoring.additive
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
        if self._summed:
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

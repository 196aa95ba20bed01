"""A position is scored: the logits of the sources in, the distribution that a token is chosen from out."""

from collections.abc import Mapping, Sequence

from jaxtyping import Float
from torch import Tensor

from descant.method import Method
from descant.processors.base import History
from descant.processors.process import Few, apply, process, process_few
from descant.strategies.growth import Judged
from descant.types import Logits


def judge(
    method: Method, logits: Mapping[str, Logits], history: History | None, rows: Sequence[int], *, few: bool = False
) -> Judged:
    """Score positions by a method.

    Parameters
    ----------
    method
        The method.
    logits
        `[n, vocab]` by source.
    history
        What precedes each position; None without processors.
    rows
        The row of each.
    few
        Whether the scores of few tokens are enough, where the processors leave no more.
    """
    scoring, processors = method.scoring, method.processors
    raw, fallback = scoring(logits), logits["expert"]
    if method.strategy.sums_scores:
        fallback = fallback.log_softmax(-1) if processors else fallback
        raw = raw if scoring.additive else raw.log_softmax(-1)
    processed = (process_few if few else process)(processors, history, raw, fallback)
    if isinstance(processed, Few):
        return Judged(rows, logits, raw, processed.scores, processed)
    return Judged(rows, logits, raw, processed)


def judge_captured(method: Method, logits: Mapping[str, Logits], history: History | None) -> Float[Tensor, "n vocab"]:
    """Do what `judge` does in the same operations whatever the values: nothing falls back where all is forbidden."""
    raw = method.scoring(logits)
    return raw if history is None else apply(method.processors, history, raw)


def exactly(method: Method, *, shown: bool) -> bool:
    """Tell whether a method's scores are wanted as they are, or up to one constant a position.

    That changes neither a choice nor its log-probability, unless scores are shown, added up over steps, or handed to
    processors that treat scores above and below 0 differently.
    """
    added = method.strategy.sums_scores and method.scoring.additive
    return shown or added or not all(processor.shift_invariant for processor in method.processors)

"""The few tokens that processors leave, against the same processors over the whole vocabulary."""

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from descant import BadWords, MinP, Temperature, TopK, TopP
from descant.numerics import choose
from descant.processors.base import History, Processor
from descant.processors.process import Few, logprobs, process, process_few

INF = math.inf
seeds = st.integers(0, 2**32)


def make_scores(seed: int, vocab: int, dtype: torch.dtype, spread: float, rows: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    scores = (torch.randn(rows, vocab, generator=generator) * spread).bfloat16().to(dtype)
    scores[0, torch.randperm(vocab, generator=generator)[3:]] = -INF
    return scores


def shortlist(processors: Sequence[Processor], history: History, scores: Tensor) -> Few | None:
    """Return the few tokens that are listed; where none are, all scores are those of `process`."""
    found = process_few(processors, history, scores, scores)
    if isinstance(found, Few):
        return found
    assert torch.equal(found, process(processors, history, scores, scores))
    return None


def make_history(rows: int) -> History:
    lengths = torch.ones(rows, dtype=torch.int64)
    return History(torch.zeros(rows, 1, dtype=torch.int64), lengths, lengths)


@given(
    seed=seeds,
    vocab=st.sampled_from([4097, 50_000]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    spread=st.sampled_from([1.0, 3.0, 8.0]),
    last=st.sampled_from([TopK(1), TopK(20), TopK(600), TopP(0.0), TopP(0.5), TopP(0.9), TopP(0.999), TopP(1.0)]),
    uniform=st.floats(0, 1, exclude_max=True),
)
def test_few_are_what_the_whole_vocabulary_gives(
    seed: int, vocab: int, dtype: torch.dtype, spread: float, last: Processor, uniform: float
) -> None:
    scores = make_scores(seed, vocab, dtype, spread)
    processors, history = (Temperature(0.7), last), make_history(len(scores))
    few = shortlist(processors, history, scores)
    if few is None:
        return
    # The oracle sorts and masks the vocabulary row by row, in a width for which no shortlist is tried.
    whole = process(processors, history, scores, scores)
    listed = torch.full_like(whole, -INF)
    for row, (values, tokens) in enumerate(zip(few.scores, few.tokens, strict=True)):
        allowed = values > -INF
        assert (tokens[allowed].diff() > 0).all()
        listed[row, tokens[allowed]] = values[allowed]
    assert torch.equal(listed, whole)
    uniforms = torch.full((len(scores),), uniform, dtype=torch.float64)
    for of_few, of_all in (
        (choose.argmax(few.scores), choose.argmax(whole)),
        (choose.categorical(few.scores, uniforms), choose.categorical(whole, uniforms)),
    ):
        assert torch.equal(few.tokens.gather(1, of_few[:, None])[:, 0], of_all)
        assert torch.equal(few.logprobs(of_few), logprobs(whole, of_all))


def test_few_are_listed_for_what_truncates_to_few() -> None:
    scores, history = make_scores(1, 50_000, torch.float32, 8.0), make_history(4)
    for last in (TopK(20), TopP(0.9)):
        few = shortlist((Temperature(0.7), last), history, scores)
        assert few is not None
        assert few.scores.shape[1] < 600


def test_no_list_where_it_is_not_known_or_empty() -> None:
    scores, history = make_scores(2, 50_000, torch.float32, 8.0), make_history(4)
    assert shortlist((), history, scores) is None
    assert shortlist((MinP(0.1),), history, scores) is None
    assert shortlist((TopP(1.0),), history, scores) is None
    assert shortlist((TopK(20),), history, scores[:, :4000]) is None
    everything = BadWords([[token] for token in range(50_000)])
    assert shortlist((everything, TopK(20)), history, scores) is None


def test_rows_that_take_a_sort_are_sorted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flat rows keep too many tokens to list, which is only known when they have been sorted."""
    sorts: list[Tensor] = []
    removed = TopP._removed
    monkeypatch.setattr(TopP, "_removed", lambda self, x: (sorts.append(x), removed(self, x))[1])
    scores = make_scores(3, 50_000, torch.float32, 0.1)[1:]
    found = process_few((Temperature(0.7), TopP(0.9)), make_history(3), scores, scores)
    assert isinstance(found, Tensor)
    assert sum(map(len, sorts)) == 3

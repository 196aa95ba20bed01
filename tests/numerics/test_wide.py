"""What is found through the maxima of blocks, against passes over the whole vocabulary."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from descant.numerics import wide
from descant.numerics.wide import Blocks, in_parts, log_total

INF = math.inf
seeds = st.integers(0, 2**32)
widths = st.sampled_from([4096, 4097, 5000, 50_257])
dtypes = st.sampled_from([torch.float32, torch.float64])


def make_scores(seed: int, vocab: int, dtype: torch.dtype, allowed: int, rows: int = 4) -> Tensor:
    """Rows of which the first allow all tokens and the last only some, with ties."""
    generator = torch.Generator().manual_seed(seed)
    scores = (torch.randn(rows, vocab, generator=generator) * 3).bfloat16().to(dtype)
    banned = torch.rand(rows // 2, vocab, generator=generator).argsort(-1)[:, allowed:]
    scores[rows // 2 :].scatter_(1, banned, -INF)
    return scores


@given(seed=seeds, vocab=widths, dtype=dtypes, allowed=st.sampled_from([1, 3, 400]))
def test_totals(seed: int, vocab: int, dtype: torch.dtype, allowed: int) -> None:
    scores = make_scores(seed, vocab, dtype, allowed)
    totals = log_total(scores)
    torch.testing.assert_close(totals, scores.double().logsumexp(-1).to(dtype))
    assert torch.equal(log_total(scores[2:]), totals[2:])
    assert torch.equal(torch.cat([log_total(row[None]) for row in scores]), totals)


def test_totals_of_rows_that_are_no_distribution() -> None:
    scores = torch.full((4, 5000), -INF)
    scores[1] = 0.0
    scores[2, 4999] = math.nan
    scores[3, 7] = INF
    totals = log_total(scores)
    assert totals.isnan().tolist() == [True, False, True, True]
    assert float(totals[1]) == pytest.approx(math.log(5000))
    assert log_total(scores[:1]).isnan().all()


@given(seed=seeds, vocab=widths, dtype=dtypes, allowed=st.sampled_from([1, 3, 400]), k=st.sampled_from([1, 2, 50, 600]))
def test_the_greatest(seed: int, vocab: int, dtype: torch.dtype, allowed: int, k: int) -> None:
    scores = make_scores(seed, vocab, dtype, allowed)
    best, tokens = Blocks(scores).top(k)
    assert torch.equal(best, scores.topk(k).values)
    assert torch.equal(scores.gather(1, tokens).where(best > -INF, -INF), best)
    assert torch.equal(Blocks(scores).argmax(), scores.argmax(-1))
    assert torch.equal(Blocks(scores).best()[:, 0], scores.amax(-1))


@given(seed=seeds, vocab=widths, dtype=dtypes, allowed=st.sampled_from([1, 3, 400]), below=st.floats(0, 30))
def test_what_reaches_a_limit(seed: int, vocab: int, dtype: torch.dtype, allowed: int, below: float) -> None:
    scores = make_scores(seed, vocab, dtype, allowed)
    scores[1, 17] = math.nan
    least = scores.nan_to_num().amax(-1, keepdim=True) - below
    kept = scores.masked_fill(scores < least, -INF)
    torch.testing.assert_close(Blocks(scores).keep_from(least), kept, rtol=0, atol=0, equal_nan=True)
    places = Blocks(scores).places_from(least)
    if places is not None:
        assert torch.equal(places.unique(), (~(scores < least)).view(-1).nonzero()[:, 0])


def test_few_are_found_and_many_are_not_picked_out() -> None:
    scores = make_scores(0, 10_001, torch.float32, 5)
    best = scores.amax(-1, keepdim=True)
    assert Blocks(scores).places_from(best - 2) is not None
    assert Blocks(scores).places_from(best - 99) is None
    assert Blocks(scores).allowed() is None
    found = Blocks(scores[2:]).allowed()
    assert found is not None
    values, tokens = found
    for row, value, token in zip(scores[2:], values, tokens, strict=True):
        assert token[value > -INF].tolist() == (row > -INF).nonzero()[:, 0].tolist()


def test_parts_cover_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = make_scores(0, 5000, torch.float32, 5, rows=14)
    totals = log_total(scores)
    for size in (1, 10_000, 30_000, 10**9):
        monkeypatch.setattr(wide, "_CACHED_SCORES", size)
        assert torch.equal(torch.cat([scores[part] for part in in_parts(scores)]), scores)
        assert torch.equal(log_total(scores), totals)
    assert [len(scores[:0][part]) for part in in_parts(scores[:0])] == [0]

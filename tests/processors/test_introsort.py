"""Which of equal scores torch's sort puts last: the tests fail when a version of torch sorts in another way."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from processor_cases import make_case
from torch import Tensor
from transformers import TopPLogitsWarper

from descant.processors import TopP, introsort
from descant.processors.introsort import is_torchs_order, last_in_order

DTYPES = [torch.float32, torch.float64]


def tied(seed: int, vocab: int, scale: float, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(vocab, generator=generator) * scale).bfloat16().to(dtype)


def agrees(scores: Tensor, count: int) -> bool:
    last = last_in_order(scores, count)
    assert last is not None
    return torch.equal(last.sort().values, scores.sort().indices[len(scores) - count :].sort().values)


@pytest.mark.parametrize("dtype", DTYPES)
def test_this_torch_sorts_as_assumed(dtype: torch.dtype) -> None:
    """Where this fails (another C++ library has another sort), top-p stays exact but sorts whole vocabularies."""
    assert is_torchs_order(dtype)


@given(
    seed=st.integers(0, 2**32),
    vocab=st.one_of(st.integers(1, 70), st.integers(1, 5000)),
    scale=st.sampled_from([0.0, 0.01, 0.3, 2.0, 50.0]),
    share=st.floats(0, 1),
    dtype=st.sampled_from(DTYPES),
)
def test_any_part_of_the_order(seed: int, vocab: int, scale: float, share: float, dtype: torch.dtype) -> None:
    assert agrees(tied(seed, vocab, scale, dtype), max(1, round(share * vocab)))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("vocab", [4096, 32_000, 50_257, 128_256, 151_936, 262_144])
def test_whole_vocabularies(vocab: int, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for seed, scale in enumerate((0.5, 8.0)):
            scores = tied(seed, vocab, scale)
            both = torch.stack([scores, scores.flip(0)])
            assert torch.equal(both.sort(-1).indices[0], scores.sort().indices)  # rows are sorted alone
            for count in (1, 30, vocab // 50, vocab // 2, vocab):
                assert agrees(scores, count)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("shape", ["rising", "falling", "saw", "two values"])
def test_orderly_scores(shape: str) -> None:
    places = torch.arange(20_000.0)
    scores = {
        "rising": places // 3,
        "falling": -(places // 3),
        "saw": places % 37,
        "two values": (places % 3 == 0).float(),
    }[shape]
    for count in (5, 500, 19_000):
        assert agrees(scores, count)


def test_an_order_that_makes_partitioning_slow_is_left_to_the_sort() -> None:
    """Organ pipes: each pivot splits off next to nothing, until introsort sorts by heap."""
    assert last_in_order(-(torch.arange(20_000.0) - 10_000).abs(), 500) is None


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("assumed", [True, False])
def test_top_p_between_equals(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, assumed: bool) -> None:
    """Whether the order is as assumed or not, what is kept is what transformers keeps."""
    monkeypatch.setattr(introsort, "is_torchs_order", lambda dtype: assumed)
    monkeypatch.setattr("descant.processors.mass.is_torchs_order", lambda dtype: assumed)
    case = make_case(3, rows=40, vocab=8192, dtype=dtype)
    case.scores = (case.scores * 2).to(torch.bfloat16).to(dtype)
    for p in (0.3, 0.6):
        expected = case.expected(lambda _, p=p: TopPLogitsWarper(p))
        assert torch.equal(TopP(p)(case.history, case.scores), expected)

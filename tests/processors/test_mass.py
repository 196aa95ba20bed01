"""Top-p and typical: the full sort, and the shortlist that spares it."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from processor_cases import Case, cases, make_case
from transformers import TopPLogitsWarper, TypicalLogitsWarper

from descant import SettingsError
from descant.numerics import wide
from descant.processors import TopP, Typical, mass

masses = st.one_of(st.sampled_from([0.001, 0.2, 0.5, 0.75, 0.9, 0.95, 0.999]), st.floats(0.001, 0.999))
kept = st.sampled_from([1, 1, 1, 2, 7, 50])


@given(case=cases(vocab=50), p=st.one_of(masses, st.sampled_from([0.0, 1.0])), keep=kept)
def test_top_p_is_that_of_transformers(case: Case, p: float, keep: int) -> None:
    expected = case.expected(lambda _: TopPLogitsWarper(p, min_tokens_to_keep=keep))
    assert torch.equal(TopP(p, keep)(case.history, case.scores), expected)


@given(case=cases(vocab=50), p=masses, keep=kept)
def test_typical_is_that_of_transformers(case: Case, p: float, keep: int) -> None:
    expected = case.expected(lambda _: TypicalLogitsWarper(p, min_tokens_to_keep=keep))
    assert torch.equal(Typical(p, keep)(case.history, case.scores), expected)


@pytest.fixture(scope="module")
def short_list() -> object:
    """A shortlist that small vocabularies use too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mass, "_SHORTLISTS", (3, 6))
        patch.setattr(wide, "_WIDE", 1)
        patch.setattr(wide, "_BLOCK", 4)
        yield


@given(
    case=cases(vocab=50),
    p=masses,
    keep=kept,
)
def test_the_shortlist_changes_nothing(short_list: object, case: Case, p: float, keep: int) -> None:
    expected = case.expected(lambda _: TopPLogitsWarper(p, min_tokens_to_keep=keep))
    assert torch.equal(TopP(p, keep)(case.history, case.scores), expected)
    expected = case.expected(lambda _: TypicalLogitsWarper(p, min_tokens_to_keep=keep))
    assert torch.equal(Typical(p, keep)(case.history, case.scores), expected)


@given(seed=st.integers(0, 2**32), rank=st.integers(1, 5), nudge=st.integers(-2, 2))
def test_the_shortlist_leaves_a_cut_at_a_tokens_very_edge_to_the_sort(
    short_list: object, seed: int, rank: int, nudge: int
) -> None:
    """Where the mass is that of some tokens, up to rounding, only the sort tells on which side it lies."""
    case = make_case(seed, rows=1, vocab=40, kind="normal")
    probs = case.scores.softmax(-1)[0]
    edge = float(probs.sort(descending=True).values[:rank].sum()) + nudge * 2**-25
    expected = case.expected(lambda _: TopPLogitsWarper(edge))
    assert torch.equal(TopP(edge)(case.history, case.scores), expected)
    surprise = -probs.log()
    order = (surprise - (probs * surprise).sum()).abs().argsort()
    edge = float(probs[order][:rank].sum()) + nudge * 2**-25
    expected = case.expected(lambda _: TypicalLogitsWarper(edge))
    assert torch.equal(Typical(edge)(case.history, case.scores), expected)


def test_the_shortlist_is_used_where_it_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """Peaked rows are decided without a sort; rows that are flat are sorted, and cuts of top-p between equals."""
    sorts: list[torch.Tensor] = []
    for kind in (TopP, Typical):
        sort = kind._removed
        monkeypatch.setattr(kind, "_removed", lambda self, x, sort=sort: (sorts.append(x), sort(self, x))[1])
    case = make_case(1, rows=5, vocab=20_000, kind="peaked")
    case.scores[1] = 0.0
    case.scores[2, 5:] = -math.inf
    case.scores[3] = -math.inf
    case.scores[3, [7, 9]] = 1.0  # half the mass each
    TopP(0.4)(case.history, case.scores)
    assert torch.equal(torch.cat(sorts), case.scores[[1, 3]])
    sorts.clear()
    Typical(0.4)(case.history, case.scores)
    assert torch.equal(torch.cat(sorts), case.scores[1:2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1.0, 4.0, 8.0])
@pytest.mark.parametrize("precision", [torch.float64, torch.bfloat16])
def test_a_vocabulary_of_full_size(dtype: torch.dtype, scale: float, precision: torch.dtype) -> None:
    case = make_case(7, rows=2, vocab=152_064, dtype=dtype)
    case.scores = (case.scores * scale).to(precision).to(dtype)  # bfloat16 makes many equals
    for p in (0.3, 0.9):
        expected = case.expected(lambda _, p=p: TopPLogitsWarper(p))
        assert torch.equal(TopP(p)(case.history, case.scores), expected)
        expected = case.expected(lambda _, p=p: TypicalLogitsWarper(p))
        assert torch.equal(Typical(p)(case.history, case.scores), expected)


def test_settings_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"TopP\.p is 1\.01; use a number from 0 to 1"):
        TopP(1.01)
    with pytest.raises(SettingsError, match=r"TopP\.min_tokens_to_keep is 0"):
        TopP(0.5, 0)
    with pytest.raises(SettingsError, match=r"Typical\.mass is 1\.0; use a number between 0 and 1"):
        Typical(1.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_cut_between_equals_is_left_to_the_sort(dtype: torch.dtype) -> None:
    """A whole vocabulary of half-precision scores, of which many are equal: what is kept is what transformers keeps."""
    case = make_case(3, rows=40, vocab=8192, dtype=dtype)
    case.scores = (case.scores * 2).to(torch.bfloat16).to(dtype)
    for p in (0.3, 0.6):
        expected = case.expected(lambda _, p=p: TopPLogitsWarper(p))
        assert torch.equal(TopP(p)(case.history, case.scores), expected)

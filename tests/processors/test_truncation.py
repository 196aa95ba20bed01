import math
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from processor_cases import Case, cases, make_case
from transformers import (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
)

import oracle
from descant import SettingsError
from descant.processors import Epsilon, Eta, MinP, Temperature, TopK, TopNSigma

fractions = st.sampled_from([1e-6, 0.01, 0.05, 0.1, 0.25, 0.5, 0.9, 0.999])
kept = st.sampled_from([1, 1, 1, 2, 5, 30])


@given(case=cases(), temperature=st.sampled_from([1e-4, 0.3, 1.0, 2.5]))
def test_temperature_is_that_of_transformers(case: Case, temperature: float) -> None:
    expected = case.expected(lambda _: TemperatureLogitsWarper(temperature))
    assert torch.equal(Temperature(temperature)(case.history, case.scores), expected)


@given(case=cases(), k=st.integers(1, 30), keep=kept)
def test_top_k_is_that_of_transformers(case: Case, k: int, keep: int) -> None:
    expected = case.expected(lambda _: TopKLogitsWarper(k, min_tokens_to_keep=keep))
    assert torch.equal(TopK(k, keep)(case.history, case.scores), expected)


def test_top_k_keeps_ties_at_its_edge() -> None:
    scores = torch.tensor([[2.0, 1.0, 3.0, 2.0, 2.0]])
    kept = TopK(2)(make_case(0, rows=1).history, scores) > -math.inf
    assert kept.tolist() == [[True, False, True, True, True]]


@given(case=cases(), p=st.one_of(fractions, st.sampled_from([0.0, 1.0])), keep=kept)
def test_min_p_is_that_of_transformers(case: Case, p: float, keep: int) -> None:
    expected = case.expected(lambda _: MinPLogitsWarper(p, min_tokens_to_keep=keep))
    assert torch.equal(MinP(p, keep)(case.history, case.scores), expected)
    expected = case.expected(lambda _: MinPLogitsWarper(p))
    assert torch.equal(MinP(p)(case.history, case.scores), expected)


@given(case=cases(), epsilon=fractions, keep=kept)
def test_epsilon_is_that_of_transformers(case: Case, epsilon: float, keep: int) -> None:
    expected = case.expected(lambda _: EpsilonLogitsWarper(epsilon, min_tokens_to_keep=keep))
    assert torch.equal(Epsilon(epsilon, keep)(case.history, case.scores), expected)


@given(case=cases(), epsilon=fractions, keep=kept)
def test_eta_is_that_of_transformers(case: Case, epsilon: float, keep: int) -> None:
    expected = case.expected(lambda _: EtaLogitsWarper(epsilon, min_tokens_to_keep=keep))
    assert torch.equal(Eta(epsilon, keep)(case.history, case.scores), expected)


def test_eta_holds_epsilon_in_float32_as_transformers_does() -> None:
    probs = torch.tensor([[0.8, 0.1 + 7e-10, 0.1 - 7e-10]], dtype=torch.float64)
    case = Case(make_case(0, rows=1).history, probs.log())
    expected = case.expected(lambda _: EtaLogitsWarper(0.1))
    assert (expected > -math.inf).tolist() == [[True, False, False]]
    assert torch.equal(Eta(0.1)(case.history, case.scores), expected)


@given(case=cases(), n=st.sampled_from([0.3, 1.0, 2.0]))
def test_top_n_sigma_against_python(case: Case, n: float) -> None:
    result = TopNSigma(n)(case.history, case.scores)
    for row, scores in zip(result.tolist(), case.scores.tolist(), strict=True):
        edge = oracle.n_sigma_edge(scores, n)
        for before, after in zip(scores, row, strict=True):
            if abs(before - edge) > 1e-5 or edge == max(scores):
                assert after == (before if before >= edge else -math.inf)


def test_top_n_sigma_by_hand() -> None:
    # Mean 2, squared distances 9 + 1 + 1 + 9 + 0, sample variance 20 / 4, σ = 2.236; −inf does not count.
    scores = torch.tensor([[5.0, 3.0, 1.0, -1.0, 2.0, -math.inf]])
    kept = TopNSigma(1.0)(make_case(0, rows=1).history, scores) > -math.inf
    assert kept.tolist() == [[True, True, False, False, False, False]]
    wider = TopNSigma(1.35)(make_case(0, rows=1).history, scores) > -math.inf
    assert wider.tolist() == [[True, True, False, False, True, False]]


@given(case=cases(), temperature=st.sampled_from([0.25, 4.0]))
def test_top_n_sigma_ignores_temperature(case: Case, temperature: float) -> None:
    kept = TopNSigma(1.0)(case.history, case.scores) > -math.inf
    tempered = TopNSigma(1.0)(case.history, Temperature(temperature)(case.history, case.scores)) > -math.inf
    assert torch.equal(kept, tempered)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TopK(0), r"TopK\.k is 0; use a whole number from 1"),
        (lambda: TopK(5, 0), r"TopK\.min_tokens_to_keep is 0; keep at least 1 token"),
        (lambda: MinP(1.5), r"MinP\.p is 1\.5; use a number from 0 to 1"),
        (lambda: MinP(math.nan), r"MinP\.p is nan"),
        (lambda: Epsilon(0.0), r"Epsilon\.epsilon is 0\.0; use a number between 0 and 1"),
        (lambda: Eta(1.0), r"Eta\.epsilon is 1\.0; use a number between 0 and 1"),
        (lambda: TopNSigma(0.0), r"TopNSigma\.n is 0\.0; use a number above 0"),
        (lambda: Temperature(0.0), r"Temperature\.temperature is 0\.0; .* Greedy\(\) for temperature 0"),
        (lambda: Temperature(-1.0), r"Temperature\.temperature is -1\.0"),
        (lambda: Temperature(1e-30), r"Temperature\.temperature is 1e-30"),
    ],
)
def test_settings_are_refused(make: object, message: str) -> None:
    assert callable(make)
    with warnings.catch_warnings(), pytest.raises(SettingsError, match=message):
        make()

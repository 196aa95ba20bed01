import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from processor_cases import Case, cases, make_case
from transformers import RepetitionPenaltyLogitsProcessor

import oracle
from descant import SettingsError
from descant.processors import FrequencyPenalty, History, PresencePenalty, RepetitionPenalty


@given(case=cases(), penalty=st.sampled_from([0.3, 1.0, 1.2, 5.0]))
def test_repetition_penalty_is_that_of_transformers(case: Case, penalty: float) -> None:
    expected = case.expected(lambda _: RepetitionPenaltyLogitsProcessor(penalty))
    assert torch.equal(RepetitionPenalty(penalty)(case.history, case.scores), expected)


def naive(case: Case, penalty: float, *, every_time: bool) -> torch.Tensor:
    rows = []
    for i, scores in enumerate(case.scores.tolist()):
        start, stop = int(case.history.prompt_lengths[i]), int(case.history.lengths[i])
        written = case.history.tokens[i, start:stop].tolist()
        rows.append(oracle.penalised(scores, written, penalty, every_time=every_time))
    return torch.tensor(rows, dtype=case.scores.dtype)


@given(case=cases(), penalty=st.sampled_from([-1.5, 0.0, 0.3, 2.0]))
def test_presence_penalty_counts_generated_tokens_once(case: Case, penalty: float) -> None:
    result = PresencePenalty(penalty)(case.history, case.scores)
    torch.testing.assert_close(result, naive(case, penalty, every_time=False))


@given(case=cases(vocab=5), penalty=st.sampled_from([-1.5, 0.0, 0.3, 2.0]))
def test_frequency_penalty_counts_generated_tokens_every_time(case: Case, penalty: float) -> None:
    result = FrequencyPenalty(penalty)(case.history, case.scores)
    torch.testing.assert_close(result, naive(case, penalty, every_time=True))


def test_an_example_by_hand() -> None:
    history = History(torch.tensor([[3, 0, 0, 1, 99]]), torch.tensor([4]), torch.tensor([1]))
    scores = torch.tensor([[1.0, -1.0, 2.0, 4.0]])
    assert RepetitionPenalty(2.0)(history, scores).tolist() == [[0.5, -2.0, 2.0, 2.0]]
    assert PresencePenalty(0.5)(history, scores).tolist() == [[0.5, -1.5, 2.0, 4.0]]
    assert FrequencyPenalty(0.5)(history, scores).tolist() == [[0.0, -1.5, 2.0, 4.0]]


@pytest.mark.parametrize("processor", [RepetitionPenalty(2.0), PresencePenalty(2.0), FrequencyPenalty(2.0)], ids=repr)
def test_history_may_hold_tokens_beyond_the_scores(processor: RepetitionPenalty) -> None:
    """Expert and amateur may share fewer tokens than a prompt may use."""
    history = History(torch.tensor([[7, 1], [9, 8]]), torch.tensor([2, 2]), torch.tensor([0, 0]))
    scores = torch.tensor([[1.0, 4.0], [1.0, 4.0]])
    assert processor(history, scores).tolist() == [[1.0, 2.0], [1.0, 4.0]]


def test_a_long_history_over_a_wide_vocabulary() -> None:
    case = make_case(0, rows=4, vocab=30_000, width=3_000)
    result = FrequencyPenalty(0.25)(case.history, case.scores)
    torch.testing.assert_close(result, naive(case, 0.25, every_time=True))


@pytest.mark.parametrize("penalty", [0.0, -1.0, math.inf, math.nan])
def test_repetition_penalty_refuses(penalty: float) -> None:
    with pytest.raises(SettingsError, match=r"RepetitionPenalty\.penalty is .*; use a number above 0"):
        RepetitionPenalty(penalty)


@pytest.mark.parametrize("kind", [PresencePenalty, FrequencyPenalty])
@pytest.mark.parametrize("penalty", [-math.inf, math.inf, math.nan])
def test_additive_penalties_refuse(kind: type[PresencePenalty], penalty: float) -> None:
    with pytest.raises(SettingsError, match="use a finite number"):
        kind(penalty)

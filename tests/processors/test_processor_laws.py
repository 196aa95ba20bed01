"""What holds for every processor."""

import inspect
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from processor_cases import Case, cases, make_case
from transformers import NoRepeatNGramLogitsProcessor

import descant.processors
from descant.processors import (
    BadWords,
    Epsilon,
    Eta,
    FrequencyPenalty,
    History,
    LogitBias,
    MinNewTokens,
    MinP,
    NoRepeatNGram,
    PresencePenalty,
    Processor,
    RepetitionPenalty,
    Temperature,
    TopK,
    TopNSigma,
    TopP,
    TransformersProcessor,
    Typical,
)

EVERY = [
    RepetitionPenalty(1.3),
    PresencePenalty(0.4),
    FrequencyPenalty(0.4),
    NoRepeatNGram(1),
    NoRepeatNGram(2),
    BadWords([[0], [1, 1], [0, 1, 0]]),
    LogitBias({0: 1.0, 1: -math.inf}),
    MinNewTokens(4, (1,)),
    Temperature(0.7),
    TopK(3),
    TopP(0.8),
    MinP(0.1),
    Typical(0.8),
    Epsilon(0.05),
    Eta(0.05),
    TopNSigma(1.0),
    TransformersProcessor(NoRepeatNGramLogitsProcessor(2)),
]
every = pytest.mark.parametrize("processor", EVERY, ids=[type(p).__name__ for p in EVERY])


def test_no_processor_is_left_out() -> None:
    public = [getattr(descant.processors, name) for name in descant.processors.__all__]
    kinds = {kind for kind in public if inspect.isclass(kind) and issubclass(kind, Processor)}
    assert kinds - {Processor} == {type(processor) for processor in EVERY}


@every
@settings(max_examples=40)
@given(case=cases(rows=4, vocab=50), other=st.integers(0, 2**32))
def test_rows_never_influence_each_other(processor: Processor, case: Case, other: int) -> None:
    together = processor(case.history, case.scores)
    strangers = make_case(other, vocab=case.vocab, width=case.history.tokens.shape[1] + 3, dtype=case.scores.dtype)
    for i in range(len(case.scores)):
        row = case.row(i)
        assert torch.equal(processor(row.history, row.scores), together[i : i + 1])
        tokens = torch.full((1, strangers.history.tokens.shape[1]), -7)
        tokens[:, : row.history.tokens.shape[1]] = row.history.tokens
        among = History(
            torch.cat([strangers.history.tokens, tokens]),
            torch.cat([strangers.history.lengths, row.history.lengths]),
            torch.cat([strangers.history.prompt_lengths, row.history.prompt_lengths]),
        )
        assert torch.equal(processor(among, torch.cat([strangers.scores, row.scores]))[-1:], together[i : i + 1])


@every
@settings(max_examples=40)
@given(case=cases())
def test_nothing_is_mutated_and_nothing_becomes_nan(processor: Processor, case: Case) -> None:
    scores, tokens = case.scores.clone(), case.history.tokens.clone()
    lengths, prompts = case.history.lengths.clone(), case.history.prompt_lengths.clone()
    result = processor(case.history, case.scores)
    assert torch.equal(case.scores, scores)
    assert torch.equal(case.history.tokens, tokens)
    assert torch.equal(case.history.lengths, lengths)
    assert torch.equal(case.history.prompt_lengths, prompts)
    assert result.dtype == scores.dtype
    assert result.shape == scores.shape
    assert not result.isnan().any()
    assert (result[scores == -math.inf] == -math.inf).all()  # what is forbidden stays forbidden


@every
@settings(max_examples=40)
@given(seed=st.integers(0, 2**32), shift=st.floats(-20, 20))
def test_a_shift_invariant_processor_defines_the_same_distribution(
    processor: Processor, seed: int, shift: float
) -> None:
    case = make_case(seed, dtype=torch.float64)
    plain, shifted = (processor(case.history, scores).log_softmax(-1) for scores in (case.scores, case.scores + shift))
    if processor.shift_invariant:
        torch.testing.assert_close(shifted, plain, rtol=0, atol=1e-9)


def test_what_multiplies_scores_or_is_unknown_is_not_taken_for_shift_invariant() -> None:
    assert [type(processor) for processor in EVERY if not processor.shift_invariant] == [
        RepetitionPenalty,
        TransformersProcessor,
    ]


@every
def test_a_row_with_nothing_left_stays_empty(processor: Processor) -> None:
    case = make_case(5, rows=2, vocab=12)
    case.scores[0] = -math.inf
    result = processor(case.history, case.scores)
    assert (result[0] == -math.inf).all()
    assert torch.equal(result[1:], processor(case.row(1).history, case.scores[1:]))


@every
def test_no_rows(processor: Processor) -> None:
    case = make_case(5, rows=1, vocab=12)
    history = case.history
    empty = History(history.tokens[:0], history.lengths[:0], history.prompt_lengths[:0])
    assert processor(empty, case.scores[:0]).shape == (0, 12)


@pytest.mark.parametrize("processor", EVERY[:-1], ids=repr)
def test_its_repr_can_be_pasted_back(processor: Processor) -> None:
    again = eval(repr(processor), vars(descant.processors).copy())
    assert again == processor
    assert hash(again) == hash(processor)

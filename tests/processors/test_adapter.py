import math

import pytest
import torch
from processor_cases import make_case
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TopKLogitsWarper,
)

from descant import SettingsError
from descant.processors import RepetitionPenalty, TopK, TransformersProcessor
from descant.processors.adapter import as_processor


class Recorder(LogitsProcessor):
    """Writes into its arguments, as some processors do, and returns another dtype."""

    def __init__(self) -> None:
        self.seen: list[list[int]] = []

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        self.seen += input_ids.tolist()
        scores[:, 0] = -math.inf
        input_ids.zero_()
        return scores.half()


def test_every_row_comes_alone_and_without_padding() -> None:
    case = make_case(2, rows=4, dtype=torch.float64)
    before = case.scores.clone(), case.history.tokens.clone()
    recorder = Recorder()
    result = TransformersProcessor(recorder)(case.history, case.scores)
    lengths = case.history.lengths.tolist()
    assert len(set(lengths)) > 1
    assert recorder.seen == [row[:length] for row, length in zip(case.history.tokens.tolist(), lengths, strict=True)]
    assert result.dtype == torch.float64
    assert (result[:, 0] == -math.inf).all()
    assert torch.equal(case.scores, before[0])
    assert torch.equal(case.history.tokens, before[1])


def test_as_processor_wraps_what_transformers_has() -> None:
    case = make_case(4)
    theirs = [RepetitionPenaltyLogitsProcessor(1.7), TopKLogitsWarper(3)]
    expected = TopK(3)(case.history, RepetitionPenalty(1.7)(case.history, case.scores))
    assert torch.equal(as_processor(LogitsProcessorList(theirs))(case.history, case.scores), expected)
    assert torch.equal(as_processor(theirs[1])(case.history, case.scores), TopK(3)(case.history, case.scores))
    ours = TopK(3)
    assert as_processor(ours) is ours
    wrapped = as_processor(theirs[1])
    assert as_processor(wrapped) is wrapped


@pytest.mark.parametrize("value", [None, 3, "top_k", TopK, TopKLogitsWarper, lambda ids, scores: scores])
def test_as_processor_refuses_anything_else(value: object) -> None:
    with pytest.raises(SettingsError, match="is not a processor; give one of descant's or a transformers"):
        as_processor(value)


def test_a_changed_shape_is_refused() -> None:
    case = make_case(0)
    narrow = TransformersProcessor(lambda ids, scores: scores[:, 1:])
    with pytest.raises(SettingsError, match=r"returned scores of shape \[1, 19\] for \[1, 20\]"):
        narrow(case.history, case.scores)

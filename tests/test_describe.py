"""Whatever made a result is recorded as plain data."""

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LogitsProcessor, LogitsProcessorList, MinLengthLogitsProcessor, TopKLogitsWarper

from descant import BadWords, Contrastive, LogitBias
from descant.describe import describe
from descant.processors import TransformersProcessor
from descant.processors.adapter import as_processor


class Custom(LogitsProcessor):
    def __init__(self, **held: Any) -> None:
        vars(self).update(held)


class Bare(LogitsProcessor):
    pass


def keep(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    return scores


@dataclass(frozen=True)
class Named:
    part: object


def processor(described: Any) -> dict[str, Any]:
    return {"name": "TransformersProcessor", "processor": described}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Contrastive(beta=0.5).beta, 0.5),
        (BadWords([[3, 4]]), {"name": "BadWords", "sequences": [[3, 4]]}),
        (LogitBias({3: -1.0}), {"name": "LogitBias", "biases": [[3, -1.0]]}),
        (
            as_processor(MinLengthLogitsProcessor(3, 2)),
            processor({"name": "MinLengthLogitsProcessor", "min_length": 3, "eos_token_id": [2]}),
        ),
        (
            as_processor(LogitsProcessorList([TopKLogitsWarper(3, filter_value=-9.0)])),
            processor([{"name": "TopKLogitsWarper", "top_k": 3, "filter_value": -9.0, "min_tokens_to_keep": 1}]),
        ),
        (as_processor(Bare()), processor({"name": "Bare"})),
        (Custom(table=torch.zeros(9, 9)), {"table": {"name": "Tensor", "shape": [9, 9], "dtype": "torch.float32"}}),
        (Custom(table=np.zeros((2, 0))), {"table": [[], []]}),
        (Custom(seen={(3,): np.int64(2), 1: {4}}), {"seen": {"(3,)": 2, "1": [4]}}),
        (Custom(other=Custom(inner=object())), {"other": {"name": "Custom"}}),
        (Custom(other=[Named(Custom(x=1))]), {"other": [{"name": "Named", "part": {"name": "Custom"}}]}),
        (Custom(name="x", dtype=torch.bfloat16), {"dtype": "torch.bfloat16"}),
        (TransformersProcessor(keep), processor("<function keep>")),
        (functools.partial(keep, 3), "functools.partial(<function keep>, 3)"),
        (Custom, f"<class '{__name__}.Custom'>"),
        (torch.tensor([1, 2]), [1, 2]),
        (np.int64(3), 3),
        (b"x", "b'x'"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_anything_becomes_plain_data(value: Any, expected: Any) -> None:
    if isinstance(value, Custom):
        expected = {"name": "Custom", **expected}
    described = describe(value)
    assert described == expected
    assert json.loads(json.dumps(described)) == described


@pytest.mark.parametrize("make", [Bare, object, lambda: keep, lambda: iter([]), lambda: Custom(f=keep, x=object())])
def test_no_address_is_recorded(make: Callable[[], object]) -> None:
    assert "0x" not in json.dumps(describe(make()))

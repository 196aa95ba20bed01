"""The check of compiled passes: what is wrong is found, and rounding is not taken for it."""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import architectures
from descant.demo import demo_paths
from descant.models import Runner, inspect_model, open_model
from descant.models.architecture import Architecture
from descant.models.loading import load_model
from descant.models.passes import artefacts
from descant.models.passes.artefacts import CompiledStep, WrongPassError
from descant.models.passes.probe import check_step, find_layout
from descant.models.passes.step import Bucket, make_step

PLAIN, EVERY, DRAFTING = (
    Bucket(4, 1, every=False),
    Bucket(4, 3, every=True),
    Bucket(1, 1, every=False, drafts=2),
)

Pass = Callable[[Tensor, Sequence[Tensor]], list[Tensor]]


def seen(dtype: torch.dtype) -> Architecture:
    return inspect_model(architectures.build("qwen2 windowed").to(dtype))


@torch.no_grad()
def passes(architecture: Architecture, bucket: Bucket, change: Callable[[int, Tensor, Tensor], None]) -> Pass:
    """The function that would be compiled, whose plan or logits are changed in each of its calls."""
    step, calls = make_step(architecture, bucket), iter(range(100))

    def run(plan: Tensor, buffers: Sequence[Tensor]) -> list[Tensor]:
        call = next(calls)
        found = step(plan, buffers)
        results = [found] if isinstance(found, Tensor) else list(found)
        change(call, plan, results[0])
        return results

    return run


def check(architecture: Architecture, bucket: Bucket, step: Pass) -> None:
    check_step(architecture, bucket, step)  # type: ignore[arg-type]


def nothing(call: int, plan: Tensor, logits: Tensor) -> None:
    pass


def one_row_once(call: int, plan: Tensor, logits: Tensor) -> None:
    if call == 1:
        logits[1] += 10


def one_row_always(call: int, plan: Tensor, logits: Tensor) -> None:
    logits[1] += 10


def one_token_always(call: int, plan: Tensor, logits: Tensor) -> None:
    logits[:, 0] += 10


def most_rows(call: int, plan: Tensor, logits: Tensor) -> None:
    logits[plan[:, -2] != 4] += 10


def no_numbers(call: int, plan: Tensor, logits: Tensor) -> None:
    logits[1] = float("nan")


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("bucket", [PLAIN, EVERY, DRAFTING], ids=str)
def test_a_right_pass_stands(dtype: torch.dtype, bucket: Bucket) -> None:
    architecture = seen(dtype)
    check(architecture, bucket, passes(architecture, bucket, nothing))


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("change", [one_row_always, one_token_always, most_rows, no_numbers])
def test_a_fault_is_found(dtype: torch.dtype, change: Callable[[int, Tensor, Tensor], None]) -> None:
    architecture = seen(dtype)
    for bucket in (PLAIN, EVERY):
        with pytest.raises(WrongPassError, match=f"the compiled pass for {bucket} differs .* in .* rows of logits"):
            check(architecture, bucket, passes(architecture, bucket, change))


@pytest.mark.usefixtures("unchecked_types")
def test_a_row_that_rounding_carries_away_is_no_fault_in_half_precision() -> None:
    architecture = seen(torch.bfloat16)
    check(architecture, PLAIN, passes(architecture, PLAIN, one_row_once))
    architecture = seen(torch.float32)
    with pytest.raises(WrongPassError, match="in 1 of 20 rows"):
        check(architecture, PLAIN, passes(architecture, PLAIN, one_row_once))


def test_a_shape_that_fails_the_check_leaves_the_others(tmp_path: Path) -> None:
    tried: list[int] = []

    def compile_bucket(architecture: Architecture, bucket: Bucket, path: Path) -> Any:
        tried.append(bucket.rows)
        if bucket.rows == 8:
            raise WrongPassError("the compiled pass differs")
        return object.__new__(CompiledStep)

    runner = Runner(seen(torch.bfloat16), "auto", tmp_path, compile_bucket)
    with pytest.warns(RuntimeWarning, match=r"is not compiled for 8 rows × 1 tokens and runs eagerly: the compiled"):
        assert not runner.warm_up([1, 8, 32])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert runner.warm_up([1, 32])
    assert tried == [1, 8, 32]
    assert [runner.find(rows, 1, 1) is not None for rows in (1, 8, 32)] == [True, False, True]


@pytest.mark.heavy
@torch.inference_mode()
def test_a_compiled_pass_in_bfloat16_is_as_near_to_float64_as_the_eager_one(tmp_path: Path) -> None:
    """The trained expert of the bundled pair, rows of different lengths."""
    bucket, prompts, tokens = Bucket(4, 1, every=False), [[5], [9, 8, 7], [20, 30], [4] * 6], [[11], [12], [13], [14]]
    errors = {}
    wide = load_model(demo_paths()[0], dtype="float64", device="cpu")
    half = load_model(demo_paths()[0], dtype="bfloat16", device="cpu")
    expected = started(inspect_model(wide), prompts).forward(tokens)
    architecture = inspect_model(half)
    model = started(architecture, prompts)
    plan = bucket.plan(tokens, list(model.lengths))
    buffers = [buffer.clone() for buffer in model.cache.buffers(0, 4, 8)]
    step = artefacts.compile_step(
        architecture, find_layout(architecture), bucket, tmp_path / "1" / "step.pt2", lambda _: None
    )
    for name, logits in (("eager", model.forward(tokens)), ("compiled", step(plan, buffers)[0])):
        errors[name] = (logits.double() - expected).norm() / expected.norm()
    assert 0 < errors["compiled"] < 1.5 * errors["eager"] < 0.1


def started(architecture: Architecture, prompts: list[list[int]]) -> Any:
    model = open_model(architecture)
    model.add_rows(len(prompts))
    model.forward(prompts)
    return model

"""What a compiled pass needs to know of a model's eager passes: its buffers, and what is right."""

import random

import torch
from torch import Tensor

from descant.models.architecture import Architecture
from descant.models.passes.artefacts import CompiledStep, Layout, WrongPassError
from descant.models.passes.step import Bucket
from descant.models.ragged import RaggedModel

_STARTS = (1, 4, 7, 2, 9)
"""How long rows are before the passes that are compared: in each pass the next length, in each row another."""

_ROUNDED = 0.25
"""Share of rows of a trained model in half precision that rounding alone may carry away. Of two passes of
SmolLM2-135M in bfloat16, both within 3% of float64 in seven rows of random tokens, each is off by its norm in the
eighth."""


@torch.no_grad()
def find_layout(architecture: Architecture) -> Layout:
    """Find the shapes of keys and values by an eager pass of one token."""
    model = RaggedModel(architecture)
    model.add_rows(1)
    model.forward([[0]])
    buffers = model.cache.buffers(0, 1, 1)
    return Layout(tuple((buffer.shape[1], buffer.shape[3]) for buffer in buffers), buffers[0].dtype)


@torch.no_grad()
def check_step(architecture: Architecture, bucket: Bucket, step: CompiledStep) -> None:
    """Compare a compiled pass with an eager one, over rows and counts of different lengths.

    In half precision a few rows may differ, for there are tokens after which a trained model's logits depend on how
    its states are rounded; a fault shows in most rows, or always in the same one.

    Raises
    ------
    WrongPassError
        If logits differ by more than rounding: a part of the model depends on lengths in a way that a graph fixes.
    """
    source = random.Random(0)
    errors = torch.stack([_errors(architecture, bucket, step, source, turn) for turn in range(len(_STARTS))])
    dtype = architecture.model.dtype
    tolerance = max(1e-4, torch.finfo(dtype).eps ** 0.5)  # norms and rotations round to float32 inside float64 models
    right = errors <= tolerance
    wrong, compared = int((errors > tolerance).sum()), int((~errors.isnan()).sum())
    allowed = _ROUNDED if dtype.itemsize < 4 else 0.0
    if wrong > allowed * compared or not right.any(0).any(0).all() or not right.any(0).any(1).all():
        raise WrongPassError(
            f"the compiled pass for {bucket} differs from the eager one by up to {errors.nan_to_num(nan=0).max():.1g} "
            f"of its norm, in {wrong} of {compared} rows of logits"
        )


def _errors(architecture: Architecture, bucket: Bucket, step: CompiledStep, source: random.Random, turn: int) -> Tensor:
    """Return by how much of their norm the logits `[rows, keep]` of the two passes differ; NaN: there are none."""

    def draw(count: int) -> list[int]:
        return [source.randrange(architecture.width) for _ in range(count)]

    model = RaggedModel(architecture)
    model.add_rows(bucket.rows)
    model.forward([draw(_STARTS[(row + turn) % len(_STARTS)]) for row in range(bucket.rows)])
    starts = list(model.lengths)
    counts = [source.randint(1, bucket.tokens) for _ in range(bucket.rows)]
    counts[turn % bucket.rows] = bucket.tokens  # so that every place is compared in every turn
    tokens = [draw(count) for count in counts]
    buffers = [
        buffer.clone() for buffer in model.cache.buffers(0, bucket.rows, max(starts) + bucket.tokens + bucket.drafts)
    ]
    found, *drafts = step(bucket.plan(tokens, starts), buffers)
    keep = bucket.keep
    if drafts:
        keep = bucket.drafts
        if not torch.equal(drafts[0], found.argmax(-1)):
            raise WrongPassError(f"the compiled pass for {bucket} does not draft its most probable tokens")
        tokens = [row + ids[:-1] for row, ids in zip(tokens, drafts[0].tolist(), strict=True)]
    expected = model.forward(tokens, keep=keep).double()
    errors = (found.double() - expected).norm(dim=-1) / expected.norm(dim=-1)
    real = torch.arange(keep) >= keep - torch.tensor([len(row) for row in tokens])[:, None]
    compared: Tensor = errors.nan_to_num(nan=float("inf")).where(real, float("nan"))
    return compared

"""What a compiled pass needs to know of a model's eager passes: its buffers, and what is right."""

import random

import torch

from descant.models.architecture import Architecture
from descant.models.artefacts import CompiledStep, Layout
from descant.models.huggingface import RaggedModel
from descant.models.step import Bucket


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
    """Compare a compiled pass with an eager one over rows and counts of different lengths.

    Raises
    ------
    RuntimeError
        If logits differ by more than rounding: a part of the model depends on lengths in a way that a graph fixes.
    """
    source = random.Random(0)

    def draw(count: int) -> list[int]:
        return [source.randrange(architecture.width) for _ in range(count)]

    model = RaggedModel(architecture)
    model.add_rows(bucket.rows)
    model.forward([draw(source.randint(1, 5)) for _ in range(bucket.rows)])
    starts = list(model.lengths)
    tokens = [draw(source.randint(1, bucket.tokens)) for _ in range(bucket.rows - 1)] + [draw(bucket.tokens)]
    counts = [len(row) for row in tokens]
    buffers = [buffer.clone() for buffer in model.cache.buffers(0, bucket.rows, max(starts) + bucket.tokens)]
    found, *drafts = step(bucket.plan(tokens, starts), buffers)
    keep = bucket.keep
    if drafts:
        keep = bucket.drafts
        if not torch.equal(drafts[0], found.argmax(-1)):
            raise RuntimeError(f"the compiled pass for {bucket} does not draft its most probable tokens")
        tokens = [row + ids[:-1] for row, ids in zip(tokens, drafts[0].tolist(), strict=True)]
        counts = [len(row) for row in tokens]
    expected = model.forward(tokens, keep=keep)
    real = torch.arange(keep) >= keep - torch.tensor(counts)[:, None]
    error = (found[real] - expected[real]).double().norm() / expected[real].double().norm()
    # Norms and rotations round to float32 inside models of float64.
    if not error <= max(1e-4, torch.finfo(expected.dtype).eps ** 0.5):
        raise RuntimeError(f"the compiled pass for {bucket} differs from the eager one by {error:.1g} of its norm")

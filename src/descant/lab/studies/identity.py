"""What tells models apart: a fingerprint of their weights, wherever they were loaded from."""

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from typing import Any

import torch
from transformers import PreTrainedModel

from descant.decoder import Decoder
from descant.describe import describe
from descant.models.linears.replacing import linear_forms
from descant.sources.amateur import Amateur, describe_model

_SAMPLED = 1024
"""Numbers read of each tensor: enough to tell checkpoints of one training run apart, quick for billions of weights."""


@cache
def versions() -> Mapping[str, str]:
    """Return the versions of what computes."""
    return {name: version(name) for name in ("descant", "torch", "transformers")}


def digest(value: Any) -> str:
    """Return a short hash of plain data."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@torch.inference_mode()
def fingerprint(model: PreTrainedModel) -> str:
    """Return a hash of a model's configuration and of a sample of each of its tensors, packed weights left out.

    Where a model lies plays no part: a copy of a checkpoint is the same model.
    """
    config = {name: value for name, value in model.config.to_dict().items() if "name_or_path" not in name}
    state = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        flat = tensor.detach().flatten()
        chosen = flat[:: max(1, len(flat) // _SAMPLED)].double().cpu().numpy()
        state.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        state.update(chosen.tobytes())
    return state.hexdigest()[:12]


def identify(source: Any) -> Any:
    """Return what tells one source (a model, or what stands for one) from another, as plain data."""
    if isinstance(source, PreTrainedModel):
        return {
            "weights": fingerprint(source),
            "dtype": str(source.dtype).removeprefix("torch."),
            "device": str(source.device),
            "linear_layers": linear_forms(source),
        }
    described = describe_model(source)
    if isinstance(source, Amateur) and isinstance(source.reads, PreTrainedModel):
        return {**described, "model": identify(source.reads)}
    return described


def identify_all(decoder: Decoder) -> Mapping[str, Any]:
    """Return what tells a decoder's sources apart, by their names, and when tokens leave the expert early."""
    sources = {"expert": decoder.expert, "amateur": decoder.amateur, **decoder.sources}
    found = {name: identify(source) for name, source in sources.items() if source is not None}
    leaves = {} if decoder.confident_exit is None else {"confident_exit": describe(decoder.confident_exit)}
    return {**found, **leaves}

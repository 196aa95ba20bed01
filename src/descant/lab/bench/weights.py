"""How fast weights can be read: the memory bandwidth, and what a model reads in a pass."""

import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from descant.demo import demo_paths

READ_BYTES = 2**30
"""Bytes of one reading: far more than a cache holds."""


class Reader:
    """Measures the bandwidth at which a device reads memory.

    A product of a float32 matrix with a vector is what decoding does to its weights, and of torch's own operations the
    one that reads fastest on a CPU (30 GB/s where a copy moves 21 and a sum reads 27).

    Parameters
    ----------
    device
        Whose memory is read.
    """

    def __init__(self, device: torch.device) -> None:
        columns = 4096
        self._matrix = torch.ones(READ_BYTES // 4 // columns, columns, device=device)
        self._vector = torch.ones(columns, device=device)

    def __call__(self, _round: int = 0) -> float:
        """Read once and return bytes a second; the number of the round changes nothing."""
        start = time.perf_counter()
        result: Tensor = self._matrix @ self._vector
        result[0].item()  # a GPU has read everything by then
        return READ_BYTES / (time.perf_counter() - start)


def weight_bytes(model: PreTrainedModel) -> int | None:
    """Return the bytes of weights that one forward pass reads whole; None where the tokens decide (experts).

    An embedding table is read row by row, so it counts only where it is the output head as well.
    """
    config: Any = model.config.get_text_config()
    if any("experts" in name and isinstance(count, int) and count > 1 for name, count in config.to_dict().items()):
        return None
    tables: tuple[Any, Any] = model.get_input_embeddings(), model.get_output_embeddings()
    tied = tables[1] is None or tables[0].weight.data_ptr() == tables[1].weight.data_ptr()
    return sum(
        parameter.nbytes for parameter in model.parameters() if tied or parameter is not tables[0].weight
    )  # shared parameters come once


def facts(model: PreTrainedModel) -> dict[str, Any]:
    """Return what a speed depends on in a model: its shape and its dtype."""
    config: Any = model.config.get_text_config()
    return {
        "name": _name(model),
        "architecture": config.model_type,
        "parameters": model.num_parameters(),
        "layers": config.num_hidden_layers,
        "hidden": config.hidden_size,
        "vocabulary": config.vocab_size,
        "dtype": str(model.dtype).removeprefix("torch."),
        "weight_bytes": weight_bytes(model),
    }


def _name(model: PreTrainedModel) -> str:
    """Return a hub id, or of a local folder its name: where it lies says nothing about a speed."""
    name = str(model.config.name_or_path)
    for part, folder in zip(("expert", "amateur"), demo_paths(), strict=True):
        if name == str(folder):
            return f"bundled {part}"
    return Path(name).name if Path(name).is_absolute() else name or type(model).__name__

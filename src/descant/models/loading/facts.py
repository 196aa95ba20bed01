"""What a loaded model says of itself, and what a caller says of where and how to load it."""

from typing import Literal

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from descant.errors import SettingsError

PAIRS = {"qwen2.5": ("Qwen/Qwen2.5-3B-Instruct", "Qwen/Qwen2.5-Coder-0.5B-Instruct")}
"""Named pairs on the hub: expert and amateur."""

_DTYPES = {
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
    "float16": torch.float16,
    "fp16": torch.float16,
    "float32": torch.float32,
    "fp32": torch.float32,
    "float64": torch.float64,
    "fp64": torch.float64,
}


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """Return the device that was asked for, or the fastest there is.

    Raises
    ------
    SettingsError
        The device is unknown, or this machine has none of it.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        place = torch.device(device)
    except (RuntimeError, ValueError) as error:
        raise SettingsError(f"unknown device {device!r}: use auto, cuda, cuda:N, mps or cpu") from error
    count = {
        "cpu": 1,
        "cuda": torch.cuda.device_count(),
        "mps": int(torch.backends.mps.is_available()),
    }.get(place.type, 0)
    if (place.index or 0) >= count:
        raise SettingsError(f"there is no device {str(place)!r} on this machine: use auto or cpu")
    return place


def resolve_dtype(dtype: str | torch.dtype = "auto") -> torch.dtype | Literal["auto"]:
    """Return the number format that was asked for; "auto" stands for the checkpoint's own.

    Raises
    ------
    SettingsError
        The name is unknown, or is no floating-point format.
    """
    if dtype == "auto":
        return "auto"
    found = _DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if found is None or not found.is_floating_point:
        raise SettingsError(f"unknown dtype {str(dtype)!r}: use auto, bfloat16, float16, float32 or float64")
    return found


def eos_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None = None) -> tuple[int, ...]:
    """Return every id that ends a sequence; none if model and tokenizer know of none.

    Chat models often have several (Qwen2.5: the turn's end and the text's), of which a tokenizer knows one.
    """
    sources = (getattr(model, "generation_config", None), model.config.get_text_config(decoder=True), tokenizer)
    for source in sources:
        ids = getattr(source, "eos_token_id", None)
        if ids is not None and ids != []:
            return tuple(dict.fromkeys([ids] if isinstance(ids, int) else [int(token) for token in ids]))
    return ()

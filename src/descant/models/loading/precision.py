"""The number format of a model that is loaded with dtype="auto": one that the machine computes well."""

import platform
from typing import Literal

import psutil
import torch
from transformers import PreTrainedConfig

_SHARE = 0.5
"""Of the free memory that weights may take for the sake of speed: others are loaded beside them, and caches."""


def choose_dtype(
    config: PreTrainedConfig, size: int, device: torch.device
) -> tuple[torch.dtype | Literal["auto"], str]:
    """Choose the format of a checkpoint's weights in memory, and say why.

    A processor without the instructions for a half-precision format computes several tokens in it slower than in
    float32, which holds every such number: SmolLM2-135M's prompts of 96 tokens take 3.6 times as long, passes of 8 rows
    1.4 times, and only passes of one token half. It is decided by the instructions and not by a measurement, for the
    text hangs on it.

    Parameters
    ----------
    config
        The checkpoint's configuration.
    size
        Bytes of its weights.
    device
        Where they are to be.

    Returns
    -------
    The format, "auto" for the checkpoint's own, and the reason.
    """
    stored = getattr(config, "dtype", None)
    if not isinstance(stored, torch.dtype) or computes_well(stored, device) or hasattr(config, "quantization_config"):
        return "auto", "auto: the checkpoint's"
    name = str(stored).removeprefix("torch.")
    if size * torch.float32.itemsize // stored.itemsize > _SHARE * psutil.virtual_memory().available:
        return "auto", f"auto: the checkpoint's, though the processor is slow in {name}: float32 would crowd the memory"
    return torch.float32, f"auto: float32, as the processor is slow in the checkpoint's {name}"


def computes_well(dtype: torch.dtype, device: torch.device) -> bool:
    """Tell whether a device has instructions for products in a format."""
    if device.type != "cpu" or dtype.itemsize != 2:
        return True
    if not torch.backends.mkldnn.is_available():
        return False
    if dtype == torch.float16:
        return bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())
    # On x86 oneDNN says so of any AVX-512, and imitates what that lacks.
    lacking = platform.machine().lower() in ("x86_64", "amd64") and not torch.cpu._is_avx512_bf16_supported()
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported() and not lacking)

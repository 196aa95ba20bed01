"""What stands where a loaded model should: often something that wraps one."""

from typing import Any

from torch import nn
from transformers import PreTrainedModel


def unwrapping(value: Any, otherwise: str) -> str:
    """Return how to get at the model inside something that wraps one (torch.compile, DataParallel, PEFT).

    Parameters
    ----------
    value
        What was given, which is no loaded model.
    otherwise
        What to do if none is inside, in the imperative.
    """
    if not isinstance(value, nn.Module):
        return otherwise
    if hasattr(type(value), "peft_config"):
        if not hasattr(value, "merge_and_unload"):
            return "its virtual tokens are no part of a model; give a model, or one with an adapter of its layers"
        return "give model.get_base_model(), whose layers hold the adapter, or model.merge_and_unload()"
    for place, module in value.named_modules():
        if isinstance(module, PreTrainedModel):
            return f"it wraps a {type(module).__name__}; give model.{place}"
    return otherwise

"""Rotary positions: how far their scaling reaches, and those whose frequencies depend on the longest text of a pass."""

from typing import Any, Literal

from torch import nn

Varying = Literal["dynamic", "longrope"]
"""A scaling that gives a whole pass other frequencies when one text in it is long."""

_MADE_WITH = "original_inv_freq"
"""What rotary modules call the frequencies they were made with, after the layers' type where these differ."""


def scaled_length(config: Any, length: int) -> int:
    """Return how many positions a model was made for, which is more than its configuration's `length` if it scales.

    YaRN's configurations keep the length before the scaling beside the factor. With linear and dynamic scaling
    `length` itself is that length: transformers divides by nothing else. Where layer types have rotary positions of
    their own, the one that reaches least counts.
    """
    return int(max(length, min((_reach(one, length) for one in _each(config)), default=length)))


def _reach(parameters: dict[str, Any], length: int) -> float:
    kind, factor = parameters.get("rope_type"), parameters.get("factor") or 1
    if kind == "yarn":
        return float(factor * (parameters.get("original_max_position_embeddings") or length))
    if kind == "linear" or (kind == "dynamic" and not parameters.get("alpha")):  # a fixed alpha is no such factor
        return float(factor * length)
    return length


def varying_scaling(config: Any) -> Varying | None:
    """Return the scaling that gives a whole pass other frequencies when one text in it is long, if there is such."""
    kinds: set[Varying] = set()
    for parameters in _each(config):
        kind = parameters.get("rope_type")
        if kind == "longrope" or (kind == "dynamic" and _reach(parameters, 1) > 1):
            kinds.add(kind)
    return min(kinds, default=None)  # "dynamic", if layer types differ: it asks for more care


def _each(config: Any) -> list[dict[str, Any]]:
    """Return the parameters of each rotary embedding in a configuration: one, or one for each layer type."""
    parameters = getattr(config, "rope_parameters", None)
    if not isinstance(parameters, dict):
        return []
    nested = [value for value in parameters.values() if isinstance(value, dict)]
    return nested or [parameters]


def restore_frequencies(model: nn.Module, scaling: Varying | None) -> None:
    """Give a model the frequencies it was made with, so that the next pass has those of its own texts. Mutates.

    Those of dynamic scaling are otherwise those of the longest text so far, until one is shorter than where scaling
    begins. They are the modules' own: the caller holds the model's lock until the pass is over.
    """
    if scaling == "dynamic":
        for module in model.modules():
            _reset(module)


def _reset(module: nn.Module) -> None:
    """Give a module the frequencies that it was made with; if it is no rotary embedding, do nothing."""
    for name, frequencies in list(module.named_buffers(recurse=False)):
        if name.endswith(_MADE_WITH):
            prefix = name.removesuffix(_MADE_WITH)
            module.register_buffer(f"{prefix}inv_freq", frequencies.clone(), persistent=False)
            setattr(module, f"{prefix}max_seq_len_cached", module.original_max_seq_len)

"""Early exits: what the expert would say after only some of its layers (CALM, Schuster et al. 2022, 2207.07061)."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from descant.checks import flag, whole
from descant.errors import SettingsError, UnsupportedModelError
from descant.models.architecture import Architecture
from descant.models.base import LanguageModel
from descant.models.hooks import Exit
from descant.models.ragged import RaggedModel
from descant.models.sharing import of_this_thread
from descant.sources.amateur import Amateur, Beside, Prepared
from descant.sources.early_layers import EarlyLayers


@dataclass(frozen=True)
class EarlyExit(Amateur):
    """The expert itself, stopped early: its hidden state after `layer` layers, read by its own output head.

    It shares the expert's one forward pass (CALM, Schuster et al. 2022, arXiv 2207.07061, for models whose head
    serves every layer).

    Parameters
    ----------
    layer
        How many decoder layers run: the index into transformers' `hidden_states`, from 1 to the expert's number of
        layers less one.
    norm
        Whether the hidden state passes through the expert's final norm. DoLa's released code (2309.03883) leaves it
        out.
    """

    layer: int
    norm: bool = True

    def __post_init__(self) -> None:
        # Which layers there are, only the expert knows.
        layer = whole("EarlyExit.layer", self.layer, -math.inf, "give a whole number: how many layers run")
        object.__setattr__(self, "layer", layer)
        flag("EarlyExit.norm", self.norm)

    def prepare(self, beside: Beside) -> Prepared:
        expert = beside.expert
        exit_ = make_exit(expert, self.layer, norm=self.norm)

        def draft(opened: LanguageModel) -> LanguageModel:
            assert isinstance(opened, RaggedModel)
            return EarlyLayers(opened, self.layer, norm=self.norm)

        return Prepared(lambda: exit_, expert.width, None, draft, of_expert=True)


def make_exit(architecture: Architecture, layer: int, *, norm: bool, least: int = 1) -> Exit:
    """Prepare the exit after `layer` decoder layers of a model.

    Parameters
    ----------
    layer
        How many decoder layers run: the index into transformers' `hidden_states`, from `least` to the number of
        layers less one. 0 is the embeddings.
    norm
        Whether the hidden state passes through the model's final norm before its output head.

    Raises
    ------
    SettingsError
        If there is no such layer.
    UnsupportedModelError
        If what follows the decoder layers cannot be told apart from them.
    """
    check_layer(architecture, layer, least=least)
    _, layers = architecture.decoder()
    return Exit(layers[max(layer - 1, 0)], find_tail(architecture) if norm else (), before=layer == 0)


def check_layer(architecture: Architecture, layer: int, *, least: int = 1) -> None:
    """Raise if a model cannot be left after `layer` decoder layers (see `make_exit`)."""
    if architecture.cache != "ragged":
        raise UnsupportedModelError(
            f"{type(architecture.model).__name__} cannot exit early: {architecture.reason}; "
            "use a separate model as the amateur"
        )
    if not least <= layer < architecture.layers:
        raise SettingsError(
            f"there is no early exit after layer {layer}: this expert has {architecture.layers} layers; "
            f"choose {least} to {architecture.layers - 1}"
        )


@torch.inference_mode()
def find_tail(architecture: Architecture) -> tuple[nn.Module, ...]:
    """Find the modules between the decoder layers and the output head, by watching one token pass through.

    Architectures name and place their final norm differently (and some project after it), so the order of calls is
    taken from a run. The result is checked: applied to the last layer's output it must give exactly what enters the
    head.
    """
    owner, layers = architecture.decoder()
    calls: list[nn.Module] = []
    seen: dict[str, Tensor] = {}

    def note(module: nn.Module, _args: Any, _output: Any) -> None:
        calls.append(module)

    def note_last(module: nn.Module, _args: Any, output: Any) -> None:
        calls.append(module)
        seen["last"] = output[0] if isinstance(output, tuple) else output

    def note_hidden(_module: nn.Module, _args: Any, output: Any) -> None:
        seen["hidden"] = output.last_hidden_state

    model = architecture.model
    others = [child for child in owner.children() if child is not layers]
    watched = [*((child, note) for child in others), (layers[-1], note_last), (architecture.body, note_hidden)]
    with architecture.lock:
        handles = [module.register_forward_hook(of_this_thread(hook)) for module, hook in watched]
        try:
            model(input_ids=torch.zeros(1, 1, dtype=torch.int64, device=model.device), use_cache=False)
        finally:
            for handle in handles:
                handle.remove()
        tail = tuple(calls[calls.index(layers[-1]) + 1 :])
        hidden = seen["last"]
        for module in tail:
            hidden = module(hidden)
    if not torch.equal(hidden, seen["hidden"]):
        raise UnsupportedModelError(
            f"what {type(model).__name__} does after its last layer is more than a chain of modules, so an early exit "
            "would not be exact; use a separate model as the amateur, or EarlyExit(layer, norm=False)"
        )
    return tail

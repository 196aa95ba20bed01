"""Replacing a model's linear layers in place: which may be, and what is left alone and why."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from descant.errors import UnsupportedModelError
from descant.models.architecture import VERIFIED


class Unsuitable(Exception):  # noqa: N818 - a verdict on one layer, caught in this module, and no error of descant's
    """Raised by the maker of a replacement: why this layer is left alone."""


@dataclass(frozen=True)
class Layer:
    """A linear layer that may be replaced.

    Attributes
    ----------
    name
        Its place in the model.
    weight
        `[out, in]`; a view of the original.
    bias
        `[out]`, or None.
    tied
        The original itself, if the input embeddings look their rows up in it; else None.
    """

    name: str
    weight: Tensor
    bias: nn.Parameter | None
    tied: nn.Parameter | None


class ReplacedLinear(nn.Module):
    """What stands in for a linear layer. It can be neither converted, moved, saved nor loaded.

    `weight` keeps the original's shape, dtype and device for whoever asks for those, and is not a number anywhere:
    code that multiplies by it without calling the layer is seen at once. It takes the memory of one number.

    Attributes
    ----------
    form
        What its weight has become, in a word.
    """

    form: ClassVar[str]

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        nothing = torch.full((), torch.nan, dtype=layer.weight.dtype)
        self.weight = nn.Parameter(nothing.expand(layer.weight.shape), requires_grad=False)
        self.out_features, self.in_features = layer.weight.shape
        self.bias = layer.bias

    def extra_repr(self) -> str:
        """Return what `repr` shows between the brackets."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        moved, weight = fn(self.weight.new_empty(0)), self.weight
        if (moved.dtype, moved.device) != (weight.dtype, weight.device):
            raise UnsupportedModelError(
                f"this model's linear layers are packed for {weight.dtype} on {weight.device} and cannot become "
                f"{moved.dtype} on {moved.device}; load it anew and convert it before packing"
            )
        module: nn.Module = super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return module

    def _save_to_state_dict(self, *_: object) -> None:
        raise _refused_state()

    def _load_from_state_dict(self, *_: object) -> None:
        raise _refused_state()


def linear_forms(model: nn.Module) -> str:
    """Return what has become of a model's linear layers: `"plain"`, or the forms that replaced some."""
    forms = {module.form for module in model.modules() if isinstance(module, ReplacedLinear)}
    return " and ".join(sorted(forms)) or "plain"


def _refused_state() -> UnsupportedModelError:
    return UnsupportedModelError(
        "the weights of packed layers can be neither saved nor loaded; load the model anew without packing"
    )


def replace_linears(
    model: PreTrainedModel, make: Callable[[Layer], nn.Module]
) -> tuple[dict[str, nn.Module], dict[str, str]]:
    """Replace linear layers one after the other, so that at most one weight exists in both forms.

    Parameters
    ----------
    model
        On the CPU. `nn.Linear` and GPT-2's `Conv1D` are replaced; their subclasses are not, for they may compute
        something else. Mutates.
    make
        Returns the replacement, or raises `Unsuitable`.

    Returns
    -------
    The replacements by name, and the reasons why others were left alone, by name.

    Raises
    ------
    UnsupportedModelError
        If the model is not on the CPU.
    """
    if model.device.type != "cpu":
        raise UnsupportedModelError(
            f"linear layers are packed for the CPU and {type(model).__name__} is on {model.device}; leave packing "
            "off there, or load the model with device='cpu'"
        )
    owners = Counter(  # a module that stands in two places counts twice
        id(parameter)
        for _, module in model.named_modules(remove_duplicate=False)
        for parameter in module._parameters.values()
    )
    names = [name for name, module in model.named_modules() if isinstance(module, (nn.Linear, Conv1D))]
    kind = model.config.get_text_config().model_type
    if kind not in VERIFIED:  # Mamba, for one, multiplies by weights of layers that it does not call
        return {}, dict.fromkeys(names, f"{kind} has not been verified to call its linear layers")
    made: dict[str, nn.Module] = {}
    left: dict[str, str] = {}
    for name in names:
        try:
            made[name] = make(_layer(model, name, owners))
        except Unsuitable as reason:
            left[name] = str(reason)
            continue
        model.set_submodule(name, made[name])
    return made, left


def _layer(model: PreTrainedModel, name: str, owners: Counter[int]) -> Layer:
    module = model.get_submodule(name)
    if type(module) not in (nn.Linear, Conv1D):
        raise Unsuitable(f"a {type(module).__name__} may compute more than a product")
    weight, bias = module._parameters["weight"], module._parameters["bias"]
    assert weight is not None
    if weight.device.type != "cpu" or module._forward_hooks or module._forward_pre_hooks or hasattr(module, "_hf_hook"):
        raise Unsuitable("it is moved or watched by hooks")
    embeddings = model.get_input_embeddings()
    tied = module is model.get_output_embeddings() and getattr(embeddings, "weight", None) is weight
    if owners[id(weight)] > 1 + tied:
        raise Unsuitable("its weight serves another module too")
    matrix = weight.detach()
    return Layer(name, matrix.t() if isinstance(module, Conv1D) else matrix, bias, weight if tied else None)

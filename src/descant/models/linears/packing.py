"""Linear layers at memory speed on the CPU: weights laid out once for oneDNN's kernels.

Decoding a token reads every weight once, so the time of a step is bounded below by bytes over bandwidth. In PyTorch's
layout a product of a few rows in bfloat16 reaches about half of the bandwidth; in the blocked layout that oneDNN's
matrix kernels take (https://uxlfoundation.github.io/oneDNN/dev_guide_understanding_memory_formats.html), most of it.
The results differ by the order of summation, if at all.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from descant.models.linears.replacing import Layer, ReplacedLinear, Unsuitable, replace_linears

_SMALLEST = {torch.bfloat16: 2**15, torch.float32: 2**20}
"""Weights from which a packed layer is faster: below, oneDNN's call costs more than its product saves. A float32
layer outside the caches gains from two tokens on, and loses nothing at one."""


@dataclass(frozen=True)
class Packing:
    """What `pack` did.

    Attributes
    ----------
    layers
        How many linear layers were packed.
    nbytes
        Bytes of their weights.
    copied
        How many of those are held a second time, as the input embeddings that an output head was tied to.
    left_alone
        Why other linear layers were not, by name.
    """

    layers: int
    nbytes: int
    copied: int
    left_alone: dict[str, str]


class PackedLinear(ReplacedLinear):
    """A linear layer whose weight is in oneDNN's layout. For inference: it has no gradient."""

    form = "packed"

    def __init__(self, layer: Layer) -> None:
        super().__init__(layer)
        # The layout oneDNN chooses without a hint serves every number of tokens.
        self._packed = torch.ops.mkldnn._reorder_linear_weight(layer.weight.contiguous())
        self._run = torch.ops.mkldnn._linear_pointwise.default

    def forward(self, states: Float[Tensor, "*rows in"]) -> Float[Tensor, "*rows out"]:
        """Multiply by the weight and add the bias."""
        product: Tensor = self._run(states, self._packed, self.bias, "none", [], "")
        return product


def pack(model: PreTrainedModel, *, smallest: int | None = None) -> Packing:
    """Lay out the weights of a model's linear layers for fast products, in place.

    The model remains what it was to its callers: `generate` works, and so do hooks, `dtype`, `device` and
    `get_output_embeddings`. It can no longer be saved, converted or moved, which is refused, and it is for inference
    only. Every weight exists once, before and after, and one layer at a time exists twice in between. The one exception
    is an output head in bfloat16 that is tied to the input embeddings, which go on looking up their rows in the
    original: it is read whole for every token, which is worth the memory.

    Parameters
    ----------
    model
        On the CPU, in bfloat16 or float32 (layers of other dtypes are left alone). Mutates.
    smallest
        Layers of fewer weights are left alone. Default: where packing begins to pay.

    Raises
    ------
    UnsupportedModelError
        If the model is not on the CPU.
    """
    copied = 0

    def make(layer: Layer) -> nn.Module:
        nonlocal copied
        _check(layer, smallest)
        packed = PackedLinear(layer)
        if layer.tied is not None:
            packed.register_parameter("weight", layer.tied)
            copied += layer.weight.nbytes
        return packed

    made, left = replace_linears(model, make)
    size = sum(module.weight.nbytes for module in made.values() if isinstance(module, PackedLinear))
    return Packing(len(made), size, copied, left)


def _check(layer: Layer, smallest: int | None) -> None:
    weight = layer.weight
    if weight.dtype not in _SMALLEST:
        raise Unsuitable(f"{weight.dtype} has no packed kernel")
    if layer.tied is not None and weight.dtype != torch.bfloat16:
        raise Unsuitable("it is tied to the input embeddings, and gains less than the second copy costs")
    if not torch.backends.mkldnn.is_available():
        raise Unsuitable("this build of PyTorch has no oneDNN")
    if weight.dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        raise Unsuitable("this processor has no bfloat16 kernels")
    if weight.numel() < (_SMALLEST[weight.dtype] if smallest is None else smallest):
        raise Unsuitable("it is too small to gain")

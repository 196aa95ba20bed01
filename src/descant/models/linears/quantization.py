"""Weight-only quantisation on the CPU, through PyTorch's own kernels: fewer bytes to read a token, rounded weights.

Both schemes round weights to the nearest level and need no data; activations keep their dtype.

- `"int8"`: per output channel, symmetric: w ≈ s·q with s = max|w| / 127 over the channel's row, q in −127 … 127
  (the row-wise absmax scheme of LLM.int8(), Dettmers et al. 2022, https://arxiv.org/abs/2208.07339, for weights
  alone).
- `"int4"`: per group of 64 inputs (32 where 64 does not divide them) of an output channel, asymmetric:
  w ≈ s·(q − 8) + z, q in 0 … 15, levels spread evenly from the group's least weight to its greatest (round-to-nearest,
  the baseline of GPTQ, Frantar et al. 2022, https://arxiv.org/abs/2210.17323, section 5). The output head, which
  decides between tokens whose logits lie close, takes int8; so does a layer whose inputs no group divides.

Input embeddings are never quantised: a lookup reads one row.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from descant.errors import SettingsError, UnsupportedModelError
from descant.models.linears.replacing import Layer, ReplacedLinear, Unsuitable, replace_linears

Scheme = Literal["int8", "int4"]

_GROUPS = (64, 32)
_INT4_ROWS = 16
"""PyTorch's int4 kernel takes outputs in multiples of this."""


@dataclass(frozen=True)
class Quantization:
    """What `quantize` did.

    Attributes
    ----------
    scheme
        As asked for.
    layers
        How many linear layers hold how many bits a weight, by `"int8"` and `"int4"`.
    nbytes, nbytes_before
        Bytes of those layers' weights with their scales, and what they took before. A head that is tied to the input
        embeddings frees nothing: the embeddings keep the original.
    left_alone
        Why other linear layers were not quantised, by name.
    """

    scheme: Scheme
    layers: dict[str, int]
    nbytes: int
    nbytes_before: int
    left_alone: dict[str, str]


class QuantizedLinear(ReplacedLinear, ABC):
    """A linear layer of levels and of scales for them."""

    _levels: Tensor
    _scales: Tensor

    def forward(self, states: Float[Tensor, "*rows in"]) -> Float[Tensor, "*rows out"]:
        """Multiply by the weight and add the bias."""
        product = self._multiply(states.reshape(-1, self.in_features))
        if self.bias is not None:
            product += self.bias
        return product.view(*states.shape[:-1], self.out_features)

    @abstractmethod
    def _multiply(self, states: Float[Tensor, "n in"]) -> Float[Tensor, "n out"]:
        """Multiply by the weight."""

    @property
    def nbytes(self) -> int:
        """Bytes of levels and scales, offsets included."""
        return int(self._levels.nbytes + self._scales.nbytes)


class Int8Linear(QuantizedLinear):
    """A linear layer of int8 weights, one scale an output."""

    form = "int8"

    def __init__(self, layer: Layer) -> None:
        super().__init__(layer)
        self._levels, self._scales = round_int8(layer.weight)

    def _multiply(self, states: Float[Tensor, "n in"]) -> Float[Tensor, "n out"]:
        return torch._weight_int8pack_mm(states, self._levels, self._scales)


class Int4Linear(QuantizedLinear):
    """A linear layer of int4 weights, a scale and an offset for each group of inputs of an output."""

    form = "int4"

    def __init__(self, layer: Layer, group: int) -> None:
        super().__init__(layer)
        levels, scales, offsets = round_int4(layer.weight, group)
        self._group = group
        self._levels = torch.ops.aten._convert_weight_to_int4pack_for_cpu(levels, 1)
        self._scales = torch.stack([scales.t(), offsets.t()], dim=-1).contiguous()

    def _multiply(self, states: Float[Tensor, "n in"]) -> Float[Tensor, "n out"]:
        product: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(states, self._levels, self._group, self._scales)
        return product


def round_int8(weight: Float[Tensor, "out in"]) -> tuple[Int[Tensor, "out in"], Float[Tensor, " out"]]:
    """Return int8 levels and the scales, in the weight's dtype, that they are multiplied by."""
    wide = weight.float()
    # The scale is rounded to its dtype first, and then the levels for it.
    scales = (wide.abs().amax(1) / 127).clamp(min=torch.finfo(torch.bfloat16).tiny).to(weight.dtype)
    levels = (wide / scales.float()[:, None]).round().clamp(-127, 127)
    return levels.to(torch.int8), scales


def round_int4(
    weight: Float[Tensor, "out in"], group: int
) -> tuple[Int[Tensor, "out in"], Float[Tensor, "out groups"], Float[Tensor, "out groups"]]:
    """Return int4 levels 0 … 15, and scales and offsets, in the weight's dtype: w ≈ scale·(level − 8) + offset."""
    grouped = weight.float().unflatten(1, (-1, group))
    low, high = grouped.aminmax(dim=-1)
    scales = ((high - low) / 15).clamp(min=torch.finfo(torch.bfloat16).tiny).to(weight.dtype)
    offsets = (low + 8 * scales.float()).to(weight.dtype)
    levels = ((grouped - offsets.float()[..., None]) / scales.float()[..., None]).round() + 8
    return levels.clamp(0, 15).flatten(1).to(torch.int32), scales, offsets


def quantize(model: PreTrainedModel, scheme: Scheme) -> Quantization:
    """Quantise the weights of a model's linear layers, in place and for good.

    The model remains what it was to its callers (see `descant.models.linears.packing.pack`), but its logits change.

    Parameters
    ----------
    model
        On the CPU, in bfloat16: in float32 PyTorch's kernels are its slow references. Mutates.
    scheme
        `"int8"` or `"int4"`.

    Raises
    ------
    SettingsError
        If there is no such scheme.
    UnsupportedModelError
        If the model is not on the CPU, or not in bfloat16.
    """
    if scheme not in ("int8", "int4"):
        raise SettingsError(f'there is no quantization {scheme!r}; choose "int8", "int4" or None')
    if model.dtype != torch.bfloat16:
        raise UnsupportedModelError(
            f"quantised kernels are fast in bfloat16 only and {type(model).__name__} is in {model.dtype}; load it with "
            'dtype="bfloat16"'
        )
    before: dict[str, int] = {}

    def make(layer: Layer) -> nn.Module:
        if layer.weight.dtype != torch.bfloat16:
            raise Unsuitable(f"its weights are {layer.weight.dtype}")
        before[layer.name] = layer.weight.nbytes
        group = _group(layer) if scheme == "int4" and layer.name != head else None
        return Int8Linear(layer) if group is None else Int4Linear(layer, group)

    head = next((name for name, module in model.named_modules() if module is model.get_output_embeddings()), None)
    made, left = replace_linears(model, make)
    layers = [module for module in made.values() if isinstance(module, QuantizedLinear)]
    fours = sum(isinstance(module, Int4Linear) for module in layers)
    counts = {"int8": len(layers) - fours, "int4": fours}
    return Quantization(scheme, counts, sum(module.nbytes for module in layers), sum(before.values()), left)


def _group(layer: Layer) -> int | None:
    rows, columns = layer.weight.shape
    if rows % _INT4_ROWS:
        return None
    return next((size for size in _GROUPS if columns % size == 0), None)

"""Linear layers at memory speed on the CPU: weights laid out once for oneDNN's kernels.

Decoding a token reads every weight once, so the time of a step is bounded below by bytes over bandwidth. In PyTorch's
layout a product of a few rows in bfloat16 reaches about half of the bandwidth; in the blocked layout that oneDNN's
matrix kernels take (https://uxlfoundation.github.io/oneDNN/dev_guide_understanding_memory_formats.html), most of it.
The results differ by the order of summation, if at all.
"""

import ctypes
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from descant.models.swapping import (
    Layer,
    ReplacedLinear,
    Replacement,
    Unsuitable,
    replace_linears,
)

_SMALLEST = {torch.bfloat16: 2**15, torch.float32: 2**20}
"""Weights from which a packed layer is faster: below, oneDNN's call costs more than its product saves. A float32
layer outside the caches gains from two tokens on, and loses nothing at one."""

_ROWS, _PAIRS = 64, 16
"""oneDNN's layout of a bfloat16 matrix, `AB16b64a2b`: blocks of 64 rows × 32 columns, columns in pairs."""


@dataclass(frozen=True)
class Packing:
    """What `pack` did.

    Attributes
    ----------
    layers
        How many linear layers were packed.
    nbytes
        Bytes of their weights, which take no more memory than before.
    embeddings
        Whether the input embeddings now look their rows up in the packed output head.
    left_alone
        Why other linear layers were not, by name.
    """

    layers: int
    nbytes: int
    embeddings: bool
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


class PackedEmbedding(Replacement):
    """Input embeddings that read their rows out of the packed output head, so that a tied weight exists once."""

    def __init__(self, head: PackedLinear, blocks: Float[Tensor, "row_blocks column_blocks 16 64 2"]) -> None:
        super().__init__(head.weight)  # tied as before
        self.num_embeddings, self.embedding_dim = head.weight.shape
        self._blocks = blocks
        self._packed = head._packed  # whose memory the blocks are a view of

    def forward(self, ids: Int[Tensor, "*rows"]) -> Float[Tensor, "*rows hidden"]:
        """Look up the rows."""
        padded = self._blocks[ids // _ROWS, :, :, ids % _ROWS].flatten(-3)
        return padded[..., : self.embedding_dim]


def pack(model: PreTrainedModel, *, smallest: int | None = None) -> Packing:
    """Lay out the weights of a model's linear layers for fast products, in place.

    The model remains what it was to its callers: `generate` works, and so do hooks, `dtype`, `device` and
    `get_output_embeddings`. It can no longer be saved, converted or moved, which is refused, and it is for inference
    only. Every weight exists once, before and after, and one layer at a time exists twice in between.

    An output head that is tied to the input embeddings is packed in bfloat16 if oneDNN's layout is the known one, for
    then the embeddings can read their rows out of it. Otherwise it is left alone.

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
    embeddings = False

    def make(layer: Layer) -> nn.Module:
        nonlocal embeddings
        _check(layer.weight, smallest)
        if not layer.tied:
            return PackedLinear(layer)
        head, rows = _pack_tied(model, layer)
        model.set_input_embeddings(rows)
        embeddings = True
        return head

    made, left = replace_linears(model, make)
    size = sum(module.weight.nbytes for module in made.values() if isinstance(module, PackedLinear))
    return Packing(len(made), size, embeddings, left)


def _check(weight: Tensor, smallest: int | None) -> None:
    if weight.dtype not in _SMALLEST:
        raise Unsuitable(f"{weight.dtype} has no packed kernel")
    if not torch.backends.mkldnn.is_available():
        raise Unsuitable("this build of PyTorch has no oneDNN")
    if weight.dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        raise Unsuitable("this processor has no bfloat16 kernels")
    if weight.numel() < (_SMALLEST[weight.dtype] if smallest is None else smallest):
        raise Unsuitable("it is too small to gain")


def _pack_tied(model: PreTrainedModel, layer: Layer) -> tuple[PackedLinear, PackedEmbedding]:
    """Pack a head and make the embeddings that look rows up in it."""
    embeddings = model.get_input_embeddings()
    if type(embeddings) is not nn.Embedding or embeddings.max_norm is not None:
        raise Unsuitable(
            f"it is tied to the input embeddings, a {type(embeddings).__name__}, which does more than look up"
        )
    if layer.weight.dtype != torch.bfloat16:
        raise Unsuitable("it is tied to the input embeddings, which can share a packed weight in bfloat16 only")
    head = PackedLinear(layer)
    blocks = _blocks(head._packed, layer.weight)
    if blocks is None:
        raise Unsuitable("it is tied to the input embeddings, and oneDNN's layout on this processor is not known")
    return head, PackedEmbedding(head, blocks)


def _blocks(packed: Tensor, weight: Tensor) -> Tensor | None:
    """Return a view of a packed weight as `[row block, column block, pair, row, 2]`, or None in another layout.

    The layout is oneDNN's own affair, so every number is compared with the original before the view is trusted.
    """
    rows, columns = -(-weight.shape[0] // _ROWS), -(-weight.shape[1] // (2 * _PAIRS))
    size = torch.ops.mkldnn._nbytes(packed)
    if size != rows * columns * _ROWS * _PAIRS * 2 * weight.element_size():
        return None
    memory = (ctypes.c_char * size).from_address(torch.ops.mkldnn.data_ptr(packed))
    blocks = torch.frombuffer(memory, dtype=weight.dtype).view(rows, columns, _PAIRS, _ROWS, 2)
    for start in range(0, rows, 64):  # in parts: the comparison takes a copy
        part = blocks[start : start + 64].permute(0, 3, 1, 2, 4).flatten(2).flatten(0, 1)
        original = weight[start * _ROWS :][: len(part)]
        if not torch.equal(part[: len(original), : weight.shape[1]], original):
            return None
    return blocks

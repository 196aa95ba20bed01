"""An output head multiplied for a few tokens alone.

The head of a small model is much of it: 27% of the bytes that a pass of Qwen2.5-0.5B reads. Where only the logits of
some tokens are wanted, the rows of those are all that has to be read.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from descant.errors import UnsupportedModelError
from descant.models.architecture import Architecture
from descant.models.linears.packing import PackedLinear

Among = Callable[[], Int64[Tensor, " tokens"]]
"""Finds out the tokens of which the logits matter."""

_LARGE = 2**24
"""Weights from which a head is narrowed: reading fewer takes about as long as finding out which are wanted."""

_FEW = 256
"""Tokens are few up to one in so many of the vocabulary. At 151,936 × 896 in bfloat16, on 2 cores at batch 1, a pass
takes 0.79 of one with the whole head for 5 tokens, 0.89 for 500, and as long for 1,200, of packed rows, which lie
apart; of plain ones 0.77, 0.78, and as long for 20,000."""


class NarrowHead(nn.Module):
    """Stands in for an output head and gives the logits of `tokens`; `look_up` gives the rows of the head's weight."""

    def __init__(self, look_up: Callable[[Tensor], Tensor], bias: Tensor | None) -> None:
        super().__init__()
        self._look_up = look_up
        self._bias = bias
        self.tokens = torch.zeros(0, dtype=torch.int64)

    def forward(self, states: Float[Tensor, "*rows in"]) -> Float[Tensor, "*rows tokens"]:
        """Multiply by the rows of the tokens, and add their biases."""
        return F.linear(states, self._look_up(self.tokens), None if self._bias is None else self._bias[self.tokens])


class Narrowed:
    """A model behind a narrow head; all else is the original's, which is left as it is.

    What a model does after its head (soft-capping, scaling) is done to the logits that there are. In all architectures
    of the ragged cache it does so to each by itself.
    """

    def __init__(self, architecture: Architecture, head: NarrowHead, width: int) -> None:
        whole = architecture.model.get_output_embeddings()
        self.model: PreTrainedModel = architecture.with_module(whole, head)
        self._head = head
        self._width = width

    def ask(self, among: Among) -> "Narrowed | None":
        """Return itself, with a `model` that gives the logits of these tokens; None if all would take no longer."""
        self._head.tokens = among()
        return self if 0 < len(self._head.tokens) * _FEW <= self._width else None

    def widen(self, logits: Float[Tensor, "*positions tokens"]) -> Float[Tensor, "*positions vocab"]:
        """Return the logits that were asked for in their places, and −inf in all others."""
        wide = logits.new_full((*logits.shape[:-1], self._width), -torch.inf)
        return wide.index_copy_(-1, self._head.tokens, logits)


def narrow(architecture: Architecture) -> Narrowed | None:
    """Narrow a model's head; None where nothing is gained, or where the head is not known to be a product alone.

    An accelerator gains nothing: it reads the head in less time than it takes to tell it which rows are wanted.
    """
    model = architecture.model
    head = model.get_output_embeddings()
    if head.weight.device.type != "cpu" or head.weight.numel() < _LARGE:
        return None
    look_up = _rows_of(model, head)
    if look_up is None or head._forward_hooks or head._forward_pre_hooks or "forward" in vars(head):
        return None
    try:
        return Narrowed(architecture, NarrowHead(look_up, head.bias), head.weight.shape[0])
    except UnsupportedModelError:  # a library has replaced the model's own code
        return None


def _rows_of(model: PreTrainedModel, head: nn.Module) -> Callable[[Tensor], Tensor] | None:
    """Return what looks up rows of a head's weight; None if nothing can."""
    weight = head.weight
    plain = type(head) is nn.Linear and type(weight) in (Tensor, nn.Parameter)  # a quantized weight has no rows
    tied = isinstance(head, PackedLinear) and weight is model.get_input_embeddings().weight
    if isinstance(weight, Tensor) and (plain or tied):
        return weight.__getitem__
    return None

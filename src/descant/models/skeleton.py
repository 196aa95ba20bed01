"""Pickles of a model without its weights: all that another process needs to compile its passes, in some kilobytes.

Compiled code holds no weights, so it makes no difference that those of the copy are random ones of the same shapes,
strides and dtypes. Everything else about the model is pickled as it is: its configuration, what its modules hold
beside weights, small tensors (the frequencies of rotary positions), and which modules share a weight.
"""

import io
import pickle
from typing import Any

import torch
from torch import Tensor, nn

_SMALL = 1024
"""Bytes of a tensor that is sent with its content."""

_WEIGHTS = (torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int8, torch.uint8)
"""Dtypes of weights. Tensors of others hold indices or flags, which random numbers cannot stand for."""


def dump(value: Any) -> bytes:
    """Pickle something that holds modules, without their weights.

    Raises
    ------
    Exception
        Whatever `pickle` raises where a part cannot be pickled: a hook, a class inside a function.
    """
    file = io.BytesIO()
    _Pickler(file, pickle.HIGHEST_PROTOCOL).dump(value)
    return file.getvalue()


def load(data: bytes) -> Any:
    """Return what was pickled, with random weights."""
    return _Unpickler(io.BytesIO(data)).load()


class _Pickler(pickle.Pickler):
    def persistent_id(self, value: Any) -> tuple[Any, ...] | None:
        if not isinstance(value, Tensor):
            return None
        small = not value.is_mkldnn and value.untyped_storage().nbytes() <= _SMALL
        if small or value.dtype not in _WEIGHTS:
            return None
        if type(value) not in (Tensor, nn.Parameter):  # its class computes in a way of its own
            raise pickle.PicklingError(f"a {type(value).__name__} is more than its numbers")
        strides = None if value.is_mkldnn else value.stride()
        return id(value), tuple(value.shape), strides, value.dtype, isinstance(value, nn.Parameter)

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, torch._ops.OpOverload):  # a packed layer holds oneDNN's product
            return _operator, (value._schema.name, value._overloadname)
        return NotImplemented


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self._made: dict[int, Tensor] = {}  # by identity there: tied weights are one here, too
        self._random = torch.Generator().manual_seed(0)

    def persistent_load(self, facts: tuple[Any, ...]) -> Tensor:
        identity, shape, strides, dtype, parameter = facts
        if identity not in self._made:
            weight = self._draw(shape, strides, dtype)
            self._made[identity] = nn.Parameter(weight, requires_grad=False) if parameter else weight
        return self._made[identity]

    def _draw(self, shape: tuple[int, ...], strides: tuple[int, ...] | None, dtype: torch.dtype) -> Tensor:
        if strides is None:
            dense = self._draw(shape, torch.empty(shape, device="meta").stride(), dtype)
            packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(dense)
            return packed
        weight = torch.empty_strided(shape, strides, dtype=dtype)
        if not dtype.is_floating_point:
            return weight.random_(generator=self._random)
        scale = shape[-1] ** -0.5 if len(shape) > 1 else 1.0  # keeps the size of what is multiplied
        return weight.normal_(0, scale, generator=self._random)


def _operator(name: str, overload: str) -> Any:
    """Return an operator of torch by its qualified name."""
    namespace, operator = name.split("::")
    return getattr(getattr(getattr(torch.ops, namespace), operator), overload)

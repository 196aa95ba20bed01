"""What is read of a model inside its pass: early exits, and the positions that the output head is asked for."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from descant.models.architecture import Architecture
from descant.models.sharing import of_this_thread


class Exit:
    """An early exit: the hidden state after some decoder layers, read through the tail of the model.

    Parameters
    ----------
    module
        The last decoder layer that is run.
    tail
        What lies between the decoder layers and the output head (the final norm).
    before
        Whether the hidden state is what enters `module`, and not what leaves it: the embeddings, at the first layer.
    """

    def __init__(self, module: nn.Module, tail: Sequence[nn.Module], *, before: bool = False) -> None:
        self.module = module
        self.tail = tuple(tail)
        self.before = before

    def watch(self, keep: Callable[[Tensor], None]) -> RemovableHandle:
        """Have a function called with the hidden states `[rows, tokens, hidden]` of every pass, until it is removed."""

        def entering(_module: nn.Module, args: Any, kwargs: Any) -> None:
            keep(args[0] if args else kwargs["hidden_states"])

        def leaving(_module: nn.Module, _args: Any, output: Any) -> None:
            keep(output[0] if isinstance(output, tuple) else output)

        if self.before:
            return self.module.register_forward_pre_hook(of_this_thread(entering), with_kwargs=True)
        return self.module.register_forward_hook(of_this_thread(leaving))

    def finish(self, hidden: Tensor) -> Tensor:
        """Apply the tail to hidden states `[..., hidden]`."""
        for module in self.tail:
            hidden = module(hidden)
        return hidden


@contextmanager
def head_reads(
    architecture: Architecture,
    counts: Sequence[int],
    keep: int,
    exits: Sequence[Exit],
    watch: Callable[[Tensor], None] | None = None,
) -> Iterator[None]:
    """Let the output head read only the last `keep` tokens of each row, and the early exits beside them.

    The hidden states that enter the head are replaced by those of the kept positions, the exits stacked below
    along the rows. So logits are computed where they are needed and nowhere else, in one multiplication, through
    whatever the model does after its head (soft-capping, scaling). `watch` is called with those of all positions,
    `[rows, tokens, hidden]`, padding included.
    """
    width = max(counts)
    if width == keep and min(counts) == width and not exits and watch is None:
        yield
        return
    device = architecture.model.device
    ends = torch.tensor(counts, device=device)[:, None]
    index = (ends - keep + torch.arange(keep, device=device)).clamp(min=0)
    rows = torch.arange(len(counts), device=device)[:, None]
    early: dict[Exit, Tensor] = {}

    def keep_exit(exit_: Exit, hidden: Tensor) -> None:
        early[exit_] = hidden[rows, index]

    def replace(_module: nn.Module, _args: Any, output: Any) -> Any:
        if watch is not None:
            watch(output.last_hidden_state)
        finished = [exit_.finish(early[exit_]) for exit_ in exits]
        output.last_hidden_state = torch.cat([output.last_hidden_state[rows, index], *finished])
        return output

    handles = [exit_.watch(partial(keep_exit, exit_)) for exit_ in exits]
    handles.append(architecture.body.register_forward_hook(of_this_thread(replace)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()

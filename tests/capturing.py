"""What a CUDA graph does, on a CPU: a function's operations are recorded once and run again, whatever has changed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import config
from torch import nn
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx

from descant.models.passes.graph import Function

ELSEWHERE = torch.device("meta")
"""A device that no value can be read from, and whose tensors do not mix with those of the host: as a GPU's."""

FROM_THE_HOST = (torch.ops.aten.lift_fresh_copy.default, torch.ops.aten.lift_fresh.default)
"""Operations that bring numbers from the host, which a CUDA graph must not hold."""

WAITING = {torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output}
"""Tags of operations for which the host waits; indexing has one, and waits for masks only."""


@dataclass
class Recorder:
    """Stands for `graph.capture_cuda`.

    Like a CUDA graph, what it returns knows the tensors' addresses and the operations, and no Python. The recording
    itself fails where a function asks for a tensor's value.
    """

    graphs: list[GraphModule] = field(default_factory=list)
    replays: int = 0

    def __call__(self, function: Function, tensors: Sequence[torch.Tensor]) -> Callable[[], Sequence[torch.Tensor]]:
        checked = not config.jaxtyping_disable
        config.update("jaxtyping_disable", True)  # a recorded tensor is none of the annotated types
        try:
            recorded = make_fx(lambda *seen: tuple(function(seen)))(*tensors)
        finally:
            config.update("jaxtyping_disable", not checked)
        if refused(recorded):
            raise RuntimeError(f"CUDA error: operation not permitted when stream is capturing ({refused(recorded)})")
        self.graphs.append(recorded)

        def replay() -> Sequence[torch.Tensor]:
            self.replays += 1
            results: Sequence[torch.Tensor] = recorded(*tensors)
            return results

        return replay


def fits_a_graph(function: Callable[..., torch.Tensor], *arguments: torch.Tensor) -> bool:
    """Tell whether a function can be recorded, and works on tensors of another device alone."""
    try:
        recorded = make_fx(function)(*arguments)
        with FakeTensorMode() as mode:
            function(*(mode.from_tensor(argument).to(ELSEWHERE) for argument in arguments))
    except (RuntimeError, AssertionError):  # it asked for a value, or brought a tensor of its own
        return False
    return not refused(recorded)


def move_elsewhere(mode: FakeTensorMode, network: nn.Module) -> None:
    """Put a network's weights on that device."""
    for module in network.modules():
        for held in (module._parameters, module._buffers, module.__dict__):
            for name, tensor in list(held.items()):
                if isinstance(tensor, torch.Tensor):
                    fake = mode.from_tensor(tensor).detach().to(ELSEWHERE)
                    held[name] = nn.Parameter(fake, requires_grad=False) if held is module._parameters else fake


def refused(recorded: GraphModule) -> list[str]:
    """Return the operations of a recording that a CUDA graph cannot hold."""
    return [str(node) for node in recorded.graph.nodes if node.target in FROM_THE_HOST or _waits(node)]


def _waits(node: Node) -> bool:
    if not isinstance(node.target, OpOverload):
        return False
    if node.target.overloadpacket in (torch.ops.aten.index, torch.ops.aten.index_put, torch.ops.aten.index_put_):
        indices = [index for index in node.args[1] if index is not None]  # type: ignore[union-attr]
        return any(index.meta["val"].dtype in (torch.bool, torch.uint8) for index in indices)  # type: ignore[union-attr]
    return bool(WAITING & set(node.target.tags))

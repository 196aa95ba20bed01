"""Captured passes: what a function does to tensors, recorded once as a CUDA graph and launched again as a whole.

Launching the kernels of a small model one by one takes longer than running them. A graph launches them together, always
on the same memory: inputs are copied to where it reads them, and results from where it writes them.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import cache

import torch
from torch import Tensor

from descant.errors import OutOfMemoryError, SettingsError, UnsupportedModelError, first_line
from descant.models.architecture import Architecture
from descant.models.passes.step import Bucket, make_step

Function = Callable[[Sequence[Tensor]], Sequence[Tensor]]
"""Works on tensors, in place or not, by the same operations whatever their values: it never asks for one."""

Capture = Callable[[Function, Sequence[Tensor]], Callable[[], Sequence[Tensor]]]
"""Takes a function and its tensors, of which it keeps the addresses; calls it a few times; and returns what does the
same to the same tensors as one more call, and returns the same results each time, overwritten."""

_TRIALS = 3
"""Calls before the capture: libraries allocate their workspaces and choose their kernels in them."""


_CAPTURING = threading.Lock()
"""A process may record one graph at a time."""


def capture_cuda(function: Function, tensors: Sequence[Tensor]) -> Callable[[], Sequence[Tensor]]:
    """Record a CUDA graph (see `Capture`)."""
    device = tensors[0].device
    aside, current = _side_stream(device), torch.cuda.current_stream(device)
    graph = torch.cuda.CUDAGraph()
    # Being on a stream is being on its device, which need not be the current one. Its other block undoes what a capture
    # that fails leaves behind.
    with _CAPTURING, torch.cuda.stream(aside):
        aside.wait_stream(current)
        for _ in range(_TRIALS):
            function(tensors)
        # Other threads may go on with work of their own while this one is recorded.
        with torch.cuda.graph(graph, stream=aside, capture_error_mode="thread_local"):
            results = function(tensors)
        current.wait_stream(aside)

    def replay() -> Sequence[Tensor]:
        graph.replay()
        return results

    return replay


@cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """Return the stream of trials and captures: one, as libraries keep a workspace for each stream they have met."""
    return torch.cuda.Stream(device)


CAPTURES: Mapping[str, Capture] = {"cuda": capture_cuda}
"""How functions are captured, by type of device."""


def capture_on(device: torch.device) -> Capture:
    """Return how functions are captured on a device.

    Raises
    ------
    SettingsError
        If they are not.
    """
    if device.type not in CAPTURES:
        raise SettingsError(
            f'runner="graph" captures CUDA graphs, but the model is on {device}; move it to a GPU, or choose '
            'runner="compiled" or "auto"'
        )
    return CAPTURES[device.type]


def record(
    capture: Capture, what: str, function: Function, tensors: Sequence[Tensor]
) -> Callable[[], Sequence[Tensor]]:
    """Capture a function, or tell why it cannot be.

    Raises
    ------
    UnsupportedModelError
        If the function asks for a value, or brings one from the host.
    OutOfMemoryError
        If it does not fit.
    """
    try:
        return capture(function, tensors)
    except torch.OutOfMemoryError as error:
        raise OutOfMemoryError(
            f'capturing {what} did not fit into memory; decode fewer rows at once, or choose runner="auto"'
        ) from error
    except RuntimeError as error:
        raise UnsupportedModelError(
            f"{what} cannot be captured: {first_line(error)}; a graph holds nothing that waits for the device or "
            'brings numbers from the host, so choose runner="auto"'
        ) from error


def addresses(tensors: Sequence[Tensor]) -> Sequence[tuple[int, torch.Size]]:
    """Return where tensors are: what a graph is bound to."""
    return [(tensor.data_ptr(), tensor.shape) for tensor in tensors]


class CapturedStep:
    """A decode pass that is captured when it is first run, and again whenever the buffers have moved.

    Threads that decode with one model share it: they take turns, as there is one place for plan and results.

    Parameters
    ----------
    architecture, bucket
        As those of `Step`.
    capture
        How.
    """

    def __init__(self, architecture: Architecture, bucket: Bucket, capture: Capture) -> None:
        self._step = make_step(architecture, bucket)
        self._what = f"a decode pass of {type(architecture.model).__name__} ({bucket})"
        self._capture = capture
        self._at: Sequence[tuple[int, torch.Size]] = ()
        self._plan: Tensor
        self._replay: Callable[[], Sequence[Tensor]]
        self._lock = threading.Lock()

    def __call__(self, plan: Tensor, buffers: Sequence[Tensor]) -> list[Tensor]:
        """Do what `Step.forward` or `DraftStep.forward` does."""
        with self._lock:
            at = addresses(buffers)
            if at != self._at:
                # The trials write what the pass will write, in the same places.
                self._at = ()
                self._plan = plan.to(buffers[0].device, copy=True)
                self._replay = record(self._capture, self._what, self._run, [self._plan, *buffers])
                self._at = at
            self._plan.copy_(plan)
            return [result.clone() for result in self._replay()]

    def _run(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        results = self._step(tensors[0], tensors[1:])
        return results if isinstance(results, tuple) else (results,)

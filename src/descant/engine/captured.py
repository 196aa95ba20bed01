"""Plain decoding ahead of the reader: whole steps captured as a graph, launched before earlier ones were looked at.

A step needs of the one before nothing that leaves the device: its token, its length and its text are there. So steps
are launched one behind the other, each leaves its tokens where the host finds them, and the host appends them to rows a
few steps late. What turns out to lie beyond a row's end is forgotten: keys and values beyond a row's length are stale,
and generators go back to where they were.

State on the device: the tensors of `_State`, and the models' buffers. State on the host: rows and the models' lengths,
which always belong to the last step that was read. Whatever changes them in another way calls `forget` first.
"""

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from descant.engine.judge import judge_captured
from descant.method import Method
from descant.models.passes.graph import Capture, addresses, record
from descant.models.ragged import RaggedModel, StaticPass, padded
from descant.processors.base import History
from descant.processors.process import logprobs
from descant.rows import Row
from descant.sources.sources import Sources
from descant.strategies.base import Choice
from descant.strategies.growth import Draws

_AHEAD = 3
"""Steps in flight at most: one that runs, one that waits for it, one that is being read."""


@dataclass(frozen=True)
class _State:
    """What a step reads and leaves for the next, on the device; one entry a row, padded rows included.

    Attributes
    ----------
    tokens, lengths
        The last token of each row, and how many tokens the models have read before it.
    history
        All tokens, with room for more; of width 0 where no processor asks for them.
    prompt_lengths, batch_rows
        See `History`.
    uniforms
        What each row's generator drew for this step.
    chosen
        `[rows, 2]`: the token that was chosen and its log-probability.
    """

    tokens: Int64[Tensor, " rows"]
    lengths: Int64[Tensor, " rows"]
    history: Int64[Tensor, "rows width"]
    prompt_lengths: Int64[Tensor, " rows"]
    batch_rows: Int64[Tensor, " rows"]
    uniforms: Float64[Tensor, " rows"]
    chosen: Float64[Tensor, "rows 2"]

    @classmethod
    def empty(cls, rows: int, width: int, device: torch.device) -> "_State":
        """Allocate the state of some rows."""
        ids = torch.zeros(4, rows, dtype=torch.int64, device=device).unbind()
        history = torch.zeros(rows, width, dtype=torch.int64, device=device)
        floats = torch.zeros(rows, 3, dtype=torch.float64, device=device)
        return cls(ids[0], ids[1], history, ids[2], ids[3], floats[:, 0].clone(), floats[:, 1:].clone())

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All of it, in the order of the fields."""
        return tuple(getattr(self, field.name) for field in fields(self))

    def load(self, rows: Sequence[Row]) -> None:
        """Set the rows as the host knows them."""
        count = len(rows)
        facts = [[row.tokens[-1], len(row.tokens) - 1, row.prompt_length, row.index] for row in rows]
        columns = torch.tensor(facts).T
        for held, values in zip(
            (self.tokens, self.lengths, self.prompt_lengths, self.batch_rows), columns, strict=True
        ):
            held.zero_()
            held[:count] = values.to(held.device)
        if self.history.shape[1]:
            texts = padded([row.tokens for row in rows], [len(row.tokens) for row in rows], self.history.device)
            self.history[:count, : texts.shape[1]] = texts


@dataclass(frozen=True)
class _Drawn(Draws):
    """Draws that were made before: a graph cannot make them."""

    given: Float64[Tensor, " n"]

    def uniforms(self, device: torch.device) -> Float64[Tensor, " n"]:
        return self.given.to(device)


class _Slot:
    """Where the host exchanges a step's numbers with the device without waiting for it."""

    def __init__(self, rows: int, device: torch.device) -> None:
        pinned = device.type == "cuda"
        self._uniforms = torch.zeros(rows, dtype=torch.float64, pin_memory=pinned)
        self._chosen = torch.zeros(rows, 2, dtype=torch.float64, pin_memory=pinned)
        self._arrived = torch.cuda.Event() if pinned else None

    def send(self, uniforms: Tensor, state: _State) -> None:
        """Give the next step what was drawn for it."""
        self._uniforms[: len(uniforms)] = uniforms
        state.uniforms.copy_(self._uniforms, non_blocking=True)

    def fetch(self, state: _State) -> None:
        """Have the last step's choices brought to the host."""
        self._chosen.copy_(state.chosen, non_blocking=True)
        if self._arrived is not None:
            self._arrived.record(torch.cuda.current_stream(state.chosen.device))  # the current device may be another

    def wait(self) -> None:
        """Wait until the step has left its choices."""
        if self._arrived is not None:
            self._arrived.synchronize()

    def read(self, rows: int) -> list[tuple[int, float]]:
        """Wait for the choices of that step; return token and log-probability of each row."""
        self.wait()
        return [(int(token), logprob) for token, logprob in self._chosen[:rows].tolist()]


@dataclass(frozen=True)
class _Launched:
    """A step that was launched and not read, with the states in which it found the generators."""

    slot: _Slot
    generators: Sequence[tuple[torch.Generator, Tensor]]


@dataclass(frozen=True)
class _Graph:
    """A captured step of some rows, and the memory it works on."""

    state: _State
    passes: Mapping[str, StaticPass]
    replay: Callable[[], Sequence[Tensor]]
    slots: Sequence[_Slot]

    @property
    def capacity(self) -> int:
        """How many tokens a row may hold."""
        return min(part.capacity for part in self.passes.values())

    @property
    def rows(self) -> int:
        """How many rows it takes."""
        return self.passes["expert"].rows

    def holds(self, passes: Mapping[str, StaticPass]) -> bool:
        """Tell whether these passes are the captured ones, on the same memory."""
        return all(addresses(self.passes[name].buffers) == addresses(part.buffers) for name, part in passes.items())


class RunAhead:
    """Plain decoding of all rows by whole steps that are captured, and launched ahead.

    Parameters
    ----------
    sources, method
        As in `Engine`; see `of`.
    choice
        The strategy's.
    capture
        How steps are captured.
    random
        Whether the choice draws.
    """

    def __init__(
        self,
        sources: Sources,
        method: Method,
        choice: Choice,
        capture: Capture,
    ) -> None:
        self._sources = sources
        self._method = method
        self._choice = choice
        self._capture = capture
        models = {name: sources.model(name) for name in method.scoring.sources}
        self._models = {name: model for name, model in models.items() if isinstance(model, RaggedModel)}
        self._launched: deque[_Launched] = deque()
        self._steps = 0
        self._graph: _Graph | None = None

    @classmethod
    def of(cls, sources: Sources, method: Method) -> "RunAhead | None":
        """Return what decodes ahead by a method, or None if it cannot, or is not to."""
        capture = sources.expert.capture if isinstance(sources.expert, RaggedModel) else None
        choice = method.strategy.captured_choice
        if capture is None or choice is None:
            return None
        read = [sources.expert, *(sources.others[name] for name in method.scoring.sources[1:])]
        if not all(isinstance(source, RaggedModel) for source in read):
            return None
        if not (method.scoring.capturable and all(one.capturable for one in method.processors)):
            return None
        return cls(sources, method, choice, capture)

    def step(self, rows: Sequence[Row]) -> list[tuple[int, float]] | None:
        """Return the next token of every row and its log-probability, or None if the step is to be taken otherwise.

        That is where a model has more to read than each row's last token, and where a row has no token that is
        possible: the loop then falls back, or says why.
        """
        graph = self._graph if self._launched else self._start(rows)
        if graph is None:
            return None
        longest = max(len(row.tokens) for row in rows)
        left = max(row.limit - len(row.tokens) for row in rows)
        while len(self._launched) < min(_AHEAD, left, graph.capacity - longest + 1):
            self._launch(graph, rows)
        chosen = self._launched[0].slot.read(len(rows))
        if not all(math.isfinite(logprob) for _, logprob in chosen):
            self.forget()
            return None
        self._launched.popleft()
        for model in self._models.values():
            model.advance()
        return chosen

    def forget(self) -> None:
        """Undo the steps that were not read: as if the device had not gone on."""
        for launched in reversed(self._launched):
            launched.slot.wait()  # it is used again
            for generator, state in launched.generators:
                generator.set_state(state)
        self._launched.clear()

    def _launch(self, graph: _Graph, rows: Sequence[Row]) -> None:
        slot = graph.slots[self._steps % _AHEAD]
        self._steps += 1
        before: list[tuple[torch.Generator, Tensor]] = []
        if self._method.strategy.random:
            before = [(row.generator, row.generator.get_state()) for row in rows]
            draws = Draws([row.generator for row in rows], [row.index for row in rows], len(rows))
            slot.send(draws.uniforms(torch.device("cpu")), graph.state)
        graph.replay()
        slot.fetch(graph.state)
        self._launched.append(_Launched(slot, before))

    def _start(self, rows: Sequence[Row]) -> _Graph | None:
        """Bring the device to where the host is, with a graph on the present buffers; None if that cannot be."""
        read = [len(row.tokens) - 1 for row in rows]
        length = min(max(read) + _AHEAD, max(row.limit for row in rows))
        if self._graph is not None and (length > self._graph.capacity or len(rows) > self._graph.rows):
            self._graph = None  # it holds the buffers that are outgrown, here or by the step that is taken otherwise
        if any(list(model.lengths) != read for model in self._models.values()):
            return None
        found = {name: model.static_pass(length) for name, model in self._models.items()}
        passes = {name: part for name, part in found.items() if part is not None}
        if len(passes) < len(found):
            return None
        if self._graph is None or not self._graph.holds(passes):
            self._graph = None  # its memory is free before the next one's is taken
            self._graph = self._record(passes, rows)
        self._graph.state.load(rows)
        return self._graph

    def _record(self, passes: Mapping[str, StaticPass], rows: Sequence[Row]) -> _Graph:
        capacity = min(part.capacity for part in passes.values())
        count = passes["expert"].rows
        device = self._sources.device
        state = _State.empty(count, capacity + 1 if self._method.processors else 0, device)
        state.load(rows)  # the trials write beyond the rows' ends

        def advance(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
            held = len(state.tensors)
            self._advance(_State(*tensors[:held]), passes, tensors[held:], capacity)
            return ()

        buffers = [buffer for part in passes.values() for buffer in part.buffers]
        model = self._models["expert"].model
        what = f"a step of {type(self._method.scoring).__name__} over {type(model).__name__}"
        replay = record(self._capture, what, advance, [*state.tensors, *buffers])
        return _Graph(state, passes, replay, [_Slot(count, device) for _ in range(_AHEAD)])

    def _advance(
        self, state: _State, passes: Mapping[str, StaticPass], buffers: Sequence[Tensor], capacity: int
    ) -> None:
        """Take a step: what is captured."""
        plan = torch.stack([state.tokens, state.lengths, torch.ones_like(state.tokens)], -1)
        logits, first = {}, 0
        for name, part in passes.items():
            own = buffers[first : first + len(part.buffers)]
            logits[name] = self._sources.prepare(part.step(plan, own))[:, 0]
            first += len(own)
        lengths = state.lengths + 1
        history = None
        if self._method.processors:
            history = History(state.history, lengths, state.prompt_lengths, state.batch_rows)
        scores = judge_captured(self._method, logits, history)
        tokens = self._choice(scores, _Drawn((), (), 0, state.uniforms))
        state.chosen.copy_(torch.stack([tokens.double(), logprobs(scores, tokens).double()], -1))
        if history is not None:
            state.history.scatter_(1, lengths[:, None].clamp(max=capacity), tokens[:, None])
        state.tokens.copy_(tokens)
        # What lies beyond a row's end, or is padding, goes on too, but not beyond the buffers.
        state.lengths.copy_(lengths.clamp(max=capacity - 1))

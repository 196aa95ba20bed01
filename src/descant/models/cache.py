"""The ragged key-value cache: one length a row, so that rows advance, roll back, join and leave on their own.

Each layer holds buffers `[capacity_rows, heads, capacity, head_dim]`. Row b's tokens occupy positions
`0 … lengths[b] − 1` of its slot; whatever lies beyond is stale and never attended to, because every query at
position i sees keys `j ≤ i` only. Rolling a row back is therefore an assignment to its length. Active rows are
always slots `0 … rows − 1`, which makes the view a forward attends to a slice and not a copy.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import psutil
import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from descant.errors import OutOfMemoryError

_GROWTH = 64
"""Buffers grow to a multiple of this many positions, and by at least half."""


class KeysWritten(Exception):  # noqa: N818 - it ends the pass of a layer early, and is caught by who asked for that
    """Raised in a layer that was to write its keys and values and do no more (see `RaggedCache.only_write`)."""


class Placement:
    """Where one forward pass writes: rows, the position of each row's first new token, and the width of the view."""

    def __init__(self, first_row: int, starts: Sequence[int], count: int, device: torch.device) -> None:
        self.first_row = first_row
        self.rows = len(starts)
        self.count = count
        self.view = max(starts) + count
        self.uniform = min(starts) == max(starts)
        self.start = starts[0]
        if self.uniform:
            self.positions = torch.arange(self.start, self.start + count, device=device).expand(self.rows, count)
        else:
            self.positions = torch.tensor(starts, device=device)[:, None] + torch.arange(count, device=device)


class RaggedLayer(CacheLayerMixin):
    """One layer's keys and values. transformers' attention modules call `update`."""

    is_compileable = False
    is_sliding = False
    is_croppable = True

    def __init__(self, owner: "RaggedCache") -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.owner = owner
        self._slots: tuple[Tensor, Tensor] | None = None
        self._slots_of: tuple[int, int] | None = None

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate the buffers: shapes and dtype are known once the first keys arrive."""
        owner = self.owner
        if not owner.layer_bytes:
            per_token = key_states.shape[1] * (key_states.shape[3] + value_states.shape[3])
            owner.layer_bytes = per_token * key_states.element_size()
            owner.device = key_states.device
            owner.check_fits(owner.planned_rows, owner.planned_length)
        self.keys, self.values = (
            states.new_zeros((owner.capacity_rows, states.shape[1], owner.capacity, states.shape[3]))
            for states in (key_states, value_states)
        )
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write the new keys and values at their rows' ends; return all that the pass may attend to."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None
        assert self.values is not None
        place = self.owner.placement
        keys, values = self.slots(place.first_row, place.rows)
        if place.uniform:
            keys.narrow(2, place.start, place.count).copy_(key_states)
            values.narrow(2, place.start, place.count).copy_(value_states)
        else:
            index = self.owner.row_index
            keys[index, :, place.positions] = key_states.transpose(1, 2)
            values[index, :, place.positions] = value_states.transpose(1, 2)
        if self.owner.only_write:
            raise KeysWritten
        return keys.narrow(2, 0, place.view), values.narrow(2, 0, place.view)

    def slots(self, first_row: int, rows: int) -> tuple[Tensor, Tensor]:
        """Return keys and values of consecutive slots; the same views again until the buffers change."""
        if self._slots is None or self._slots_of != (first_row, rows):
            assert self.keys is not None
            assert self.values is not None
            self._slots = self.keys.narrow(0, first_row, rows), self.values.narrow(0, first_row, rows)
            self._slots_of = (first_row, rows)
        return self._slots

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return the width of the view and its offset, for models that build a mask or bias themselves."""
        del query_length
        return self.owner.placement.view, 0

    def get_seq_length(self) -> int:
        """Return the number of tokens before the pass; exact where rows are uniform."""
        return self.owner.placement.view - self.owner.placement.count

    def get_max_length(self) -> int:
        """Return the number of positions allocated."""
        return self.owner.capacity

    def resize(self, rows: int, capacity: int) -> None:
        """Move the content to buffers of another size; the old ones are free after that."""
        self._slots_of, self._slots = None, None
        for name in ("keys", "values"):
            old = getattr(self, name)
            new = old.new_zeros((rows, old.shape[1], capacity, old.shape[3]))
            kept_rows, kept = min(rows, old.shape[0]), min(capacity, old.shape[2])
            new[:kept_rows, :, :kept] = old[:kept_rows, :, :kept]
            setattr(self, name, new)

    def move(self, sources: Tensor, targets: Tensor, length: int) -> None:
        """Copy `length` positions of rows `sources` to rows `targets`."""
        for buffer in (self.keys, self.values):
            assert buffer is not None
            buffer[targets, :, :length] = buffer[sources, :, :length]

    def copy_tokens(self, sources: Tensor, targets: Tensor, positions: Tensor) -> None:
        """Copy position `positions[i]` of row `sources[i]` to row `targets[i]`."""
        for buffer in (self.keys, self.values):
            assert buffer is not None
            buffer[targets, :, positions] = buffer[sources, :, positions]


class RaggedCache(Cache):
    """Keys and values of all layers, with one length a row.

    Attributes
    ----------
    lengths
        Tokens held by each active row.
    capacity_rows, capacity
        Slots and positions allocated.
    only_write
        Whether a layer is left as soon as it has written its keys and values, by `KeysWritten`.
    """

    def __init__(self, layers: int) -> None:
        self.lengths: list[int] = []
        self.capacity_rows = 0
        self.capacity = 0
        self.only_write = False
        self.planned_rows = 0
        self.planned_length = 0
        self.beside: tuple[RaggedCache, ...] = ()
        self.layer_bytes = 0  # of one token in one layer; 0 until the first keys arrive
        self.device = torch.device("cpu")
        self.placement: Placement
        self.row_index: Tensor
        self._buffers: list[Tensor] = []
        self._buffers_of: tuple[int, int] | None = None
        super().__init__(layers=[RaggedLayer(self) for _ in range(layers)])

    def plan(self, rows: int, length: int, beside: "Sequence[RaggedCache]") -> None:
        """Announce the size a decode may reach: refused at once if it cannot fit, never allocated ahead of need.

        Caches `beside` this one will grow to their own announced sizes, and that memory is not free.
        """
        self.planned_rows = max(rows, self.planned_rows)
        self.planned_length = max(length, self.planned_length)
        self.beside = tuple(beside)
        if self.layer_bytes:
            self.check_fits(self.planned_rows, self.planned_length)

    def place(self, first_row: int, counts: Sequence[int], device: torch.device) -> Placement:
        """Make room for `counts[i]` new tokens in row `first_row + i` and fix where the next pass writes."""
        starts = self.lengths[first_row : first_row + len(counts)]
        place = Placement(first_row, starts, max(counts), device)
        self._grow(len(self.lengths), place.view)
        self.placement = place
        if not place.uniform:
            self.row_index = torch.arange(place.rows, device=device)[:, None]
        return place

    def commit(self, counts: Sequence[int]) -> None:
        """Lengthen the rows of the last placement by the tokens that were real."""
        self.advance(self.placement.first_row, counts)

    def advance(self, first_row: int, counts: Sequence[int]) -> None:
        """Lengthen consecutive rows."""
        for row, count in enumerate(counts, start=first_row):
            self.lengths[row] += count

    def buffers(self, first_row: int, rows: int, length: int) -> list[Tensor]:
        """Make room for `length` positions in consecutive slots, used or not, and return their buffers.

        Keys `[rows, heads, capacity, head_dim]` of all layers, then values. Empty before the first keys.
        """
        self._grow(max(first_row + rows, len(self.lengths)), length)
        if self._buffers_of != (first_row, rows):
            slots = [layer.slots(first_row, rows) for layer in self._allocated()]
            self._buffers = [keys for keys, _ in slots] + [values for _, values in slots]
            self._buffers_of = (first_row, rows) if slots else None
        return self._buffers

    def keep_rows(self, rows: Sequence[int]) -> None:
        """Make old row `rows[i]` the new row i; only rows that change place are copied."""
        moved = [(old, new) for new, old in enumerate(rows) if old != new]
        self._grow(len(rows), self.capacity)
        if moved:
            length = max(self.lengths[old] for old, _ in moved)
            sources, targets = (torch.tensor(side, device=self.device) for side in zip(*moved, strict=True))
            for layer in self._allocated():
                layer.move(sources, targets, length)
        self.lengths = [self.lengths[old] for old in rows]

    def copy_last(self, rows: Sequence[int]) -> None:
        """Let each row i end with the last token of row `rows[i]`, where the two are the same before it."""
        moved = [(old, new, self.lengths[old] - 1) for new, old in enumerate(rows) if old != new]
        if moved:
            sources, targets, positions = torch.tensor(moved, device=self.device).unbind(-1)
            for layer in self._allocated():
                layer.copy_tokens(sources, targets, positions)

    def nbytes(self) -> int:
        """Return the bytes allocated for keys and values."""
        return self.needed(self.capacity_rows, self.capacity)

    def needed(self, rows: int, length: int) -> int:
        """Return the bytes that keys and values of `rows` rows of `length` tokens take."""
        return self.layer_bytes * len(self.layers) * rows * length

    def outstanding(self, rows: int, length: int) -> int:
        """Return the bytes still to be allocated until rows of this length are held; 0 before the first keys."""
        held = self.nbytes() if any(self._allocated()) else 0
        return max(0, self.needed(rows, length) - held)

    def check_fits(self, rows: int, length: int) -> None:
        """Raise `OutOfMemoryError` with the figure if rows of this length cannot be held."""
        extra = self.outstanding(rows, length)
        promised = sum(cache.outstanding(cache.planned_rows, cache.planned_length) for cache in self.beside)
        free = free_memory(self.device) - promised
        if extra > free:
            raise OutOfMemoryError(
                f"the key-value cache for {rows} rows of {length} tokens needs {extra / 2**30:,.1f} GiB more, but "
                f"{max(0, free) / 2**30:,.1f} GiB are free on {self.device}; lower max_new_tokens, shorten the "
                "prompts, or decode fewer rows at once"
            )

    def _allocated(self) -> Iterator[RaggedLayer]:
        return (layer for layer in self.layers if isinstance(layer, RaggedLayer) and layer.is_initialized)

    def _grow(self, rows: int, length: int) -> None:
        if rows <= self.capacity_rows and length <= self.capacity:
            return
        new_rows = max(rows, self.capacity_rows)
        new_length = self.capacity
        if length > self.capacity:
            new_length = -(-max(length, self.capacity * 3 // 2) // _GROWTH) * _GROWTH
            if self.planned_length >= length:
                new_length = min(new_length, self.planned_length)
        if self.layer_bytes:
            self.check_fits(new_rows, new_length)
        self.capacity_rows, self.capacity = new_rows, new_length
        self._buffers_of, self._buffers = None, []
        for layer in self._allocated():  # one layer at a time: the peak is one layer above the new size
            layer.resize(new_rows, new_length)


def free_memory(device: torch.device) -> int:
    """Return the bytes that can still be allocated on a device."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free + cached)
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    return int(psutil.virtual_memory().available)

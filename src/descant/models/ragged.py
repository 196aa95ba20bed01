"""Any attention-based transformers causal language model over the ragged cache."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from descant.errors import OutOfMemoryError
from descant.models.architecture import Architecture
from descant.models.base import LanguageModel
from descant.models.cache import Placement, RaggedCache
from descant.models.hidden_states import HiddenStates
from descant.models.hooks import Exit, head_reads
from descant.models.linears.narrow_head import Among, Narrowed, narrow
from descant.models.passes.graph import Capture
from descant.models.passes.runner import Runner
from descant.models.passes.step import Step
from descant.models.sharing import of_this_thread
from descant.types import TokenIds


@dataclass(frozen=True)
class StaticPass:
    """A pass of one token a row, on memory that stays where it is.

    Attributes
    ----------
    step
        Maps a plan (see `Bucket.plan`) and the buffers to logits `[rows, 1, vocab]`.
    rows
        How many it takes: at least those of the model. What lies behind those is read, and written, in vain.
    buffers
        Keys and values.
    """

    step: Step
    rows: int
    buffers: Sequence[Tensor]

    @property
    def capacity(self) -> int:
        """How many tokens a row may hold."""
        return self.buffers[0].shape[2]


class RaggedModel(LanguageModel):
    """A transformers model with per-row lengths, per-row rollback, and rows that join and leave.

    Parameters
    ----------
    architecture
        The inspected model; its weights are shared and not changed.
    runner
        How passes run; shared by all models over the same weights. Default: eagerly.
    """

    def __init__(self, architecture: Architecture, runner: Runner | None = None) -> None:
        self.architecture = architecture
        self.runner = runner or Runner(architecture, "eager")
        self.model = architecture.model
        self.width = architecture.width
        self.device = architecture.model.device
        self.context = architecture.context
        self.cache = RaggedCache(architecture.layers)
        self._zeros = torch.zeros(1, 1, 1, 0)
        config = architecture.model.config.get_text_config()
        self._alibi_from_mask = architecture.model.config.model_type == "bloom"
        self._plain = config._attn_implementation == "sdpa" and set(architecture.windows.values()) == {None}

    @property
    def lengths(self) -> Sequence[int]:
        return self.cache.lengths

    @cached_property
    def narrowed(self) -> Narrowed | None:
        """The model for passes of which few logits matter; None if nothing would be gained."""
        return narrow(self.architecture)

    def add_rows(self, count: int) -> None:
        self.cache.lengths.extend([0] * count)

    def keep_rows(self, rows: Sequence[int]) -> None:
        self.cache.keep_rows(rows)

    @property
    def capture(self) -> Capture | None:
        """How to capture passes, if they are to be."""
        return self.runner.capture

    def static_pass(self, length: int) -> StaticPass | None:
        """Return a pass of one token for every row as a function that can be captured; None if there is none.

        Parameters
        ----------
        length
            How many tokens the rows may reach before the function is of no use any more: buffers that hold so many are
            allocated.
        """
        found = self.runner.static_pass(len(self.lengths))
        if found is None or not self.cache.layer_bytes:
            return None
        rows, step = found
        try:
            buffers = self.cache.buffers(0, rows, length)
        except OutOfMemoryError:  # the padding does not fit; a pass alone may
            return None
        return StaticPass(step, rows, buffers)

    def advance(self) -> None:
        """Count one token more for each row, which a captured pass has read. Mutates."""
        self.cache.advance(0, [1] * len(self.lengths))

    def copy_last(self, rows: Sequence[int]) -> None:
        """Let each row i end with the last token of row `rows[i]`, where the two are the same before it. Mutates."""
        self.cache.copy_last(rows)

    def truncate(self, lengths: Sequence[int]) -> None:
        held = self.cache.lengths
        if len(lengths) != len(held) or any(not 0 <= new <= old for new, old in zip(lengths, held, strict=True)):
            raise ValueError(f"cannot truncate rows of {held} tokens to {list(lengths)}")
        self.cache.lengths = list(lengths)

    def reserve(self, rows: int, length: int, beside: Sequence[LanguageModel] = ()) -> None:
        self.cache.plan(rows, length, [model.cache for model in beside if isinstance(model, RaggedModel)])

    def forward(
        self,
        tokens: Sequence[Sequence[int]],
        *,
        keep: int = 1,
        first_row: int = 0,
        among: Among | None = None,
    ) -> Float[Tensor, "rows keep vocab"]:
        return self.run(tokens, keep=keep, first_row=first_row, exits=(), among=among)[0]

    def run(
        self,
        tokens: Sequence[Sequence[int]],
        *,
        keep: int,
        first_row: int,
        exits: Sequence[Exit],
        hidden: HiddenStates | None = None,
        among: Among | None = None,
    ) -> list[Float[Tensor, "rows keep vocab"]]:
        """Do what `forward` does, and return the logits of early exits from the same pass after the model's own.

        Where `hidden` is given, the final hidden states of all new tokens are added to its rows. If only the logits
        `among` some tokens matter, those of others may be −inf; an eager pass asks which they are.
        """
        counts = [len(row) for row in tokens]
        compiled = None if exits or hidden is not None else self._run_compiled(tokens, counts, keep, first_row)
        if compiled is not None:
            [logits] = compiled
            self.cache.advance(first_row, counts)
            return [logits if logits.shape[:2] == (len(counts), keep) else logits[: len(counts), -keep:]]
        device = self.device
        place = self.cache.place(first_row, counts, device)
        ids = padded(tokens, counts, device)
        watch = None if hidden is None else partial(hidden.append, first_row, counts)
        narrowed = None if among is None or self.narrowed is None else self.narrowed.ask(among)
        model = self.model if narrowed is None else narrowed.model
        with (
            self.architecture.lock,
            head_reads(self.architecture, counts, keep, exits, watch),
            self._own_bias(place),
        ):
            try:
                logits = model(
                    input_ids=ids,
                    position_ids=self._position_ids(place),
                    attention_mask=self._masks(place),
                    use_cache=True,
                    **{self.architecture.cache_argument: self.cache},
                ).logits
            except (RuntimeError, MemoryError) as error:
                if not _is_allocation(error):
                    raise
                raise OutOfMemoryError(
                    f"a forward pass of {place.rows} rows × {place.count} tokens did not fit into memory; shorten the "
                    "prompts or decode fewer rows at once"
                ) from error
        self.cache.commit(counts)
        if narrowed is not None:
            logits = narrowed.widen(logits)
        return list(logits.split(len(counts))) if exits else [logits]

    def draft(
        self, tokens: Sequence[Sequence[int]], count: int
    ) -> tuple[Float[Tensor, "rows count vocab"], Int64[Tensor, "rows count"]] | None:
        counts = [len(row) for row in tokens]
        compiled = self._run_compiled(tokens, counts, keep=1, first_row=0, drafts=count)
        if compiled is None:
            return None
        logits, ids = compiled
        self.cache.advance(0, [read + count - 1 for read in counts])
        return logits[: len(counts), :count], ids[: len(counts), :count]

    def _position_ids(self, place: Placement) -> Tensor:
        """Return the positions, as far as the model has any: padding may lie beyond, and its position is no matter."""
        if self.context is None or place.view <= self.context:
            return place.positions
        return place.positions.clamp(max=self.context - 1)

    def _run_compiled(
        self, tokens: Sequence[Sequence[int]], counts: Sequence[int], keep: int, first_row: int, drafts: int = 0
    ) -> list[Tensor] | None:
        """Run a pass, and perhaps greedy drafts after it, through compiled code; None if there is none for it.

        Rows and tokens are padded to the shape that was compiled. A padded token is written beyond its row's end, a
        padded row into a free slot or beyond the end of the row that has it, where everything is stale.
        """
        if torch.is_grad_enabled() or not self.cache.layer_bytes:
            return None
        found = self.runner.find(len(counts), max(counts), keep, drafts)
        if found is None:
            return None
        bucket, step = found
        starts = self.cache.lengths[first_row : first_row + bucket.rows]
        starts += [0] * (bucket.rows - len(starts))
        try:
            buffers = self.cache.buffers(first_row, bucket.rows, max(starts) + bucket.tokens + bucket.drafts)
        except OutOfMemoryError:  # the padding does not fit; the pass alone may
            return None
        return step(bucket.plan(tokens, starts), buffers)

    def _masks(self, place: Placement) -> Tensor | dict[str, Tensor] | None:
        windows = self.architecture.windows
        if self._plain and place.uniform and (place.count == 1 or place.start == 0):
            return None  # all is visible, or plainly causal: the attention kernel does less for no mask than for zeros
        built: dict[int | None, Tensor] = {}
        for window in windows.values():
            if window not in built:
                built[window] = self._mask(place, window)
        if len(windows) == 1:
            return next(iter(built.values()))
        return {kind: built[window] for kind, window in windows.items()}

    def _mask(self, place: Placement, window: int | None) -> Tensor:
        """Build the mask `[rows, 1, new, view]`: a query at position i sees keys j with i − window < j ≤ i.

        It is additive, zero or the dtype's minimum, because that is what every attention implementation takes:
        eager attention adds its mask, and would add a boolean one as 0 and 1.
        """
        if window is not None and window >= place.view:
            window = None
        if place.uniform and place.count == 1 and window is None:  # the commonest case: everything is visible
            mask = self._open_mask(place.view)
            return mask if place.rows == 1 else mask.expand(place.rows, 1, 1, place.view)
        keys = torch.arange(place.view, device=self.device)
        queries = place.positions[:1] if place.uniform else place.positions
        hidden = keys > queries[:, :, None]
        if window is not None:
            hidden |= keys <= queries[:, :, None] - window
        mask = torch.zeros(hidden.shape, dtype=self.model.dtype, device=self.device)
        mask.masked_fill_(hidden, torch.finfo(mask.dtype).min)
        return mask[:, None].expand(place.rows, 1, place.count, place.view)

    def _open_mask(self, view: int) -> Tensor:
        """Return zeros `[1, 1, 1, view]`, cut from a buffer that grows with the cache."""
        if self._zeros.shape[-1] < view:
            self._zeros = torch.zeros(1, 1, 1, self.cache.capacity, dtype=self.model.dtype, device=self.device)
        return self._zeros[..., :view]

    @contextmanager
    def _own_bias(self, place: Placement) -> Iterator[None]:
        """Give BLOOM its ALiBi over the view: it derives the bias from a padding mask, which ragged rows have not."""
        if not self._alibi_from_mask:
            yield
            return
        base: Any = self.model.base_model
        ones = torch.ones(place.rows, place.view, device=self.device)
        build: Callable[..., Tensor] = base.build_alibi_tensor
        own = of_this_thread(lambda *_: ones)
        base.build_alibi_tensor = lambda mask, heads, dtype: build(mask if own() is None else ones, heads, dtype)
        try:
            yield
        finally:
            del base.build_alibi_tensor


def padded(tokens: Sequence[Sequence[int]], counts: Sequence[int], device: torch.device) -> TokenIds:
    """Pad rows of token ids on the right."""
    width = max(counts)
    filled = [[*row, *([0] * (width - len(row)))] for row in tokens] if min(counts) < width else tokens
    return torch.tensor(filled, dtype=torch.int64, device=device)


def _is_allocation(error: Exception) -> bool:
    """Tell whether an error is a failed allocation; torch has no class for the CPU's."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "DefaultCPUAllocator" in str(error)

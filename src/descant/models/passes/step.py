"""One decode pass as a function of tensors alone, which can be compiled or captured.

`Step` maps (plan, buffers) to logits, where the plan holds tokens and lengths. Everything that depends on the lengths
(positions, masks, where keys are written, which hidden states are read) is computed from it, so that a graph serves
every step of its shape. It writes the same buffers as an eager pass and in the same places: the two can alternate.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.cache_utils import Cache, CacheLayerMixin
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from descant.models.architecture import Architecture

Size = int | torch.SymInt
"""A size: a symbol while a pass is traced."""

_PACKED = "descant_packed"


@dataclass(frozen=True, order=True)
class Bucket:
    """The shape of a decode pass.

    Attributes
    ----------
    rows, tokens
        Rows of the pass and new tokens of each.
    every
        Whether logits are returned for every token, or for each row's last alone.
    drafts
        How many most probable tokens are drafted after those, one by one; 0: it is one pass and drafts nothing.
    """

    rows: int
    tokens: int
    every: bool
    drafts: int = 0

    @property
    def keep(self) -> int:
        """For how many last tokens of each row logits are returned."""
        return self.tokens if self.every else 1

    def plan(self, tokens: Sequence[Sequence[int]], starts: Sequence[int]) -> Int64[Tensor, "rows tokens_and_2"]:
        """Return what a pass of this shape takes beside the buffers, in one tensor: several cost more than the reading.

        Parameters
        ----------
        tokens
            New tokens of each row, at least one; fewer rows and tokens are padded.
        starts
            The position of the first of them, for every row of the bucket.

        Returns
        -------
        In each row its tokens, padded on the right, the position of the first, and how many of them are real.
        """
        rows = [
            [*row, *([0] * (self.tokens - len(row))), start, len(row)]
            for row, start in zip(tokens, starts, strict=False)
        ]
        return torch.tensor(rows + [[0] * self.tokens + [start, 1] for start in starts[len(tokens) :]])

    def __str__(self) -> str:
        more = ", logits of all" if self.every and self.tokens > 1 else ""
        return f"{self.rows} rows × {self.tokens} tokens{more}" + (f", {self.drafts} drafts" if self.drafts else "")


class Step(nn.Module):
    """A decode pass of static shape.

    Parameters
    ----------
    architecture
        The model. A skeleton of it is made that shares the weights, so that nothing is changed in the original.
    bucket
        The shape.
    """

    def __init__(self, architecture: Architecture, bucket: Bucket) -> None:
        super().__init__()
        with architecture.lock:
            self.model = copy.deepcopy(architecture.model, {id(w): w for w in weights_of(architecture.model).values()})
        _name_loose_tensors(self.model)
        if self.model.config.get_text_config()._attn_implementation == "sdpa":
            self.model.config._attn_implementation = _PACKED
        skeleton = replace(architecture, model=self.model)
        self.windows = architecture.windows
        self.context = architecture.context
        self.cache_argument = architecture.cache_argument
        self.keep = bucket.keep
        if bucket.tokens > 1:
            skeleton.body.register_forward_hook(self._select)

    def forward(
        self, plan: Int64[Tensor, "rows tokens_and_2"], buffers: Sequence[Tensor]
    ) -> Float[Tensor, "rows keep vocab"]:
        """Append tokens to rows and return the logits of the last `keep` of each row.

        Parameters
        ----------
        plan
            See `Bucket.plan`. What padded tokens write lies beyond the row's end.
        buffers
            Keys of all layers, then values, each `[rows, heads, capacity, head_dim]`; written in place. Every row has
            room for the padded tokens.
        """
        ids, starts, self._counts = plan[:, :-2], plan[:, -2], plan[:, -1]
        rows, tokens = ids.shape
        positions = starts[:, None] + torch.arange(tokens, device=ids.device)
        places = torch.arange(rows, device=ids.device)[:, None]
        half = len(buffers) // 2
        layers: list[Any] = [
            _StepLayer(keys, values, places, positions)
            for keys, values in zip(buffers[:half], buffers[half:], strict=True)
        ]
        keys = torch.arange(buffers[0].shape[2], device=ids.device)
        masks = {kind: self._mask(positions, keys, window) for kind, window in self.windows.items()}
        # A padded token may lie beyond the table of learned positions.
        embedded = positions if self.context is None else positions.clamp(max=self.context - 1)
        logits: Tensor = self.model(
            input_ids=ids,
            position_ids=embedded,
            attention_mask=masks if len(masks) > 1 else next(iter(masks.values())),
            use_cache=True,
            **{self.cache_argument: Cache(layers=layers)},
        ).logits
        return logits

    def _mask(self, positions: Tensor, keys: Tensor, window: int | None) -> Tensor:
        """Return the additive mask `[rows, 1, tokens, capacity]`: position i sees keys j with i − window < j ≤ i."""
        hidden = keys > positions[:, :, None]
        if window is not None:
            hidden = hidden | (keys <= positions[:, :, None] - window)
        dtype = self.model.dtype
        mask = torch.zeros(hidden.shape, dtype=dtype, device=positions.device)
        return mask.masked_fill(hidden, torch.finfo(dtype).min)[:, None]

    def _select(self, _module: nn.Module, _args: Any, output: Any) -> Any:
        """Let the output head read the last `keep` tokens of each row alone."""
        hidden = output.last_hidden_state
        steps = torch.arange(self.keep, device=hidden.device)
        index = (self._counts[:, None] - self.keep + steps).clamp(min=0)
        output.last_hidden_state = hidden.gather(1, index[:, :, None].expand(-1, -1, hidden.shape[-1]))
        return output


class DraftStep(nn.Module):
    """Several greedy tokens as one function: a small model's pass takes less time than what surrounds it.

    Parameters
    ----------
    architecture, bucket
        As those of `Step`.
    """

    def __init__(self, architecture: Architecture, bucket: Bucket) -> None:
        super().__init__()
        self.step = Step(architecture, bucket)
        self.drafts = bucket.drafts

    def forward(
        self, plan: Int64[Tensor, "rows tokens_and_2"], buffers: Sequence[Tensor]
    ) -> tuple[Float[Tensor, "rows drafts vocab"], Int64[Tensor, "rows drafts"]]:
        """Append tokens to rows, then all drafts but the last; return the drafts and the logits they come from."""
        logits = [self.step(plan, buffers)[:, -1]]
        ids = [logits[0].argmax(-1)]
        places = plan[:, -2] + plan[:, -1]
        for ahead in range(self.drafts - 1):
            following = torch.stack([ids[-1], places + ahead, torch.ones_like(places)], -1)
            logits.append(self.step(following, buffers)[:, -1])
            ids.append(logits[-1].argmax(-1))
        return torch.stack(logits, 1), torch.stack(ids, 1)


def make_step(architecture: Architecture, bucket: Bucket) -> "Step | DraftStep":
    """Return the function of a bucket's passes."""
    return (DraftStep if bucket.drafts else Step)(architecture, bucket).eval()


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Return every tensor that modules hold by its name: parameters, buffers and plain attributes; tied ones twice."""
    return {
        f"{place}.{name}" if place else name: tensor
        for place, module in model.named_modules(remove_duplicate=False)
        for held in (module._parameters, module._buffers, module.__dict__)
        for name, tensor in held.items()
        if isinstance(tensor, Tensor)
    }


def _name_loose_tensors(model: nn.Module) -> None:
    """Make plain attributes buffers, which a graph has by name; oneDNN's packed weights are traced as dense ones.

    A packed weight has no strides, which tracing asks for. The graph only hands it to oneDNN's product, which takes
    either; the dense one is never written to, and so takes no memory.
    """
    for module in model.modules():
        for name, tensor in list(module.__dict__.items()):
            if isinstance(tensor, Tensor):
                del module.__dict__[name]
                dense = torch.empty(tensor.shape, dtype=tensor.dtype) if tensor.is_mkldnn else tensor
                module.register_buffer(name, dense, persistent=False)


class _StepLayer(CacheLayerMixin):
    """One layer's buffers during a pass. transformers' attention modules call `update`."""

    is_compileable = True
    is_sliding = False
    is_croppable = True

    def __init__(self, keys: Tensor, values: Tensor, places: Tensor, positions: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.keys, self.values = keys, values
        self.places, self.positions = places, positions
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Do nothing: the buffers were given."""

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write the new keys and values at their rows' ends; return the buffers."""
        assert self.keys is not None
        assert self.values is not None
        self.keys[self.places, :, self.positions] = key_states.transpose(1, 2)
        self.values[self.places, :, self.positions] = value_states.transpose(1, 2)
        return self.keys, self.values

    def get_mask_sizes(self, query_length: Size) -> tuple[Size, Size]:  # type: ignore[override]
        """Return the width that is attended to and its offset."""
        del query_length
        return self.get_max_length(), 0

    def get_seq_length(self) -> Size:  # type: ignore[override]
        """Return what makes the view end where the buffers end."""
        return self.get_max_length() - self.positions.shape[1]

    def get_max_length(self) -> Size:  # type: ignore[override]
        """Return the number of positions allocated."""
        assert self.keys is not None
        return self.keys.shape[2]


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attend with grouped queries without copying keys for each head of a group.

    The heads of a group become further queries of the one head they share: `[rows, heads, tokens, dim]` is read as
    `[rows, key heads, group · tokens, dim]`, whose mask repeats. transformers copies keys and values instead, which
    costs more than the attention where there are few queries.
    """
    rows, heads, tokens, dim = query.shape
    group = heads // key.shape[1]
    special = any(options.get(name) is not None for name in ("position_bias", "softcap", "cache"))
    if group == 1 or special or attention_mask.shape[1] != 1:
        answer: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **options
        )
        return answer
    mixed = nn.functional.scaled_dot_product_attention(
        query.reshape(rows, key.shape[1], group * tokens, dim),
        key,
        value,
        attn_mask=attention_mask.repeat(1, 1, group, 1),
        scale=scaling,
    )
    return mixed.reshape(rows, heads, tokens, value.shape[-1]).transpose(1, 2).contiguous(), None


AttentionInterface.register(_PACKED, packed_attention)

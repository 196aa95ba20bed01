"""Models whose state only transformers' own cache can hold: state-space, linear attention, unverified ones."""

import copy
import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import DynamicCache

from descant.models.architecture import Architecture, cache_argument
from descant.models.base import LanguageModel
from descant.models.rotary import restore_frequencies


@dataclass
class _Row:
    tokens: list[int] = field(default_factory=list)
    state: dict[str, Any] = field(default_factory=dict)


class TransformersCacheModel(LanguageModel):
    """A model run as `model.generate` runs it on a batch of one: exact for every architecture, without rollback.

    Rows are decoded one after the other, so a batch costs as much as its rows do alone; in return no row's result
    depends on padding.
    """

    continues_in_blocks = False

    def __init__(self, architecture: Architecture) -> None:
        self.architecture = architecture
        self.model: Any = architecture.model
        self.width = architecture.width
        self.device = architecture.model.device
        self.context = architecture.context
        self.why_not_truncate = architecture.reason
        self._rows: list[_Row] = []

    @property
    def lengths(self) -> Sequence[int]:
        return [len(row.tokens) for row in self._rows]

    def add_rows(self, count: int) -> None:
        self._rows.extend(_Row() for _ in range(count))

    def keep_rows(self, rows: Sequence[int]) -> None:
        seen: set[int] = set()
        kept = []
        for row in rows:  # a row named again is a fork, and its state must be its own
            kept.append(copy.deepcopy(self._rows[row]) if row in seen else self._rows[row])
            seen.add(row)
        self._rows = kept

    def truncate(self, lengths: Sequence[int]) -> None:
        if list(lengths) != list(self.lengths):
            self.check_truncate()

    def forward(
        self, tokens: Sequence[Sequence[int]], *, keep: int = 1, first_row: int = 0
    ) -> Float[Tensor, "rows keep vocab"]:
        rows = self._rows[first_row : first_row + len(tokens)]
        return torch.stack([self._advance(row, new, keep) for row, new in zip(rows, tokens, strict=True)])

    def _advance(self, row: _Row, new: Sequence[int], keep: int) -> Float[Tensor, "keep vocab"]:
        """Append tokens to one row: a whole prompt in one pass, later tokens one by one, as `generate` does.

        Recurrent layers take several tokens at once only when they have read nothing yet. Even then several logits
        cost nothing more, as the pass over the prompt yields them all.
        """
        pieces = [new] if not row.tokens else [[token] for token in new]
        logits = [self._pass(row, piece) for piece in pieces]
        joined = torch.cat(logits)[-keep:]
        return torch.cat([joined.new_zeros(keep - len(joined), joined.shape[1]), joined])

    def _pass(self, row: _Row, piece: Sequence[int]) -> Float[Tensor, "tokens vocab"]:
        first = not row.tokens
        row.tokens.extend(piece)
        ids = torch.tensor([row.tokens], device=self.model.device)
        if first:
            row.state = self._fresh_state(ids)
        with self.architecture.lock:
            restore_frequencies(self.model, self.architecture.scaling)
            inputs = self.model.prepare_inputs_for_generation(
                ids, next_sequence_length=len(piece), is_first_iteration=first, **row.state
            )
            output = self.model(**inputs, return_dict=True)
        row.state = self.model._update_model_kwargs_for_generation(output, row.state, is_encoder_decoder=False)
        logits: Tensor = output.logits[0, -len(piece) :]
        return logits

    def _fresh_state(self, ids: Tensor) -> dict[str, Any]:
        """Return the arguments that `generate` starts from; recurrent models without this cache bring their own."""
        state: dict[str, Any] = {"attention_mask": torch.ones_like(ids), "use_cache": True}
        if "position_ids" in inspect.signature(self.model.forward).parameters:
            state["position_ids"] = torch.arange(ids.shape[1], device=ids.device)[None]
        if self.model._supports_default_dynamic_cache():
            name = cache_argument(self.model.prepare_inputs_for_generation)
            state[name] = DynamicCache(config=self.model.config.get_text_config(decoder=True))
        return state

"""Texts as vectors: hidden states of a language model, unless a study brings its own embedder."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float

from descant.checks import whole
from descant.decoder import Decoder
from descant.errors import SettingsError

Embedder = Callable[[Sequence[str]], Float[np.ndarray, "texts dim"]]
"""Texts → one vector each."""


@dataclass(frozen=True)
class PooledHiddenState:
    """The last layer's hidden states of a causal language model.

    Parameters
    ----------
    decoder
        Its expert reads the texts, with its tokenizer.
    pooling
        `"mean"` over a text's tokens, or the `"last"` token's, which has read all others.
    batch_size
        How many texts are read at once.
    """

    decoder: Decoder
    pooling: Literal["mean", "last"] = "mean"
    batch_size: int = 16

    def __post_init__(self) -> None:
        if self.pooling not in ("mean", "last"):
            raise SettingsError(f'PooledHiddenState.pooling is {self.pooling!r}; choose "mean" or "last"')
        whole("HiddenStates.batch_size", self.batch_size, 1, "read at least 1 text at once")
        if self.decoder.tokenizer is None:
            raise SettingsError("the model that embeds texts has no tokenizer; load it by its name")

    @torch.inference_mode()
    def __call__(self, texts: Sequence[str]) -> Float[np.ndarray, "texts dim"]:
        """Return one vector a text; NaN for an empty one. Texts beyond the model's context are cut."""
        tokenizer: Any = self.decoder.tokenizer
        limit = getattr(self.decoder.expert.config.get_text_config(), "max_position_embeddings", None)
        rows = [tokenizer(text)["input_ids"][:limit] if text else [] for text in texts]
        width = self.decoder.expert.config.get_text_config().hidden_size
        vectors = np.full((len(rows), width), np.nan)
        # Texts of like length together, so that little is read in vain.
        order = sorted((index for index, row in enumerate(rows) if row), key=lambda index: len(rows[index]))
        for start in range(0, len(order), self.batch_size):
            part = order[start : start + self.batch_size]
            vectors[part] = self._read([rows[index] for index in part])
        return vectors

    def _read(self, rows: Sequence[Sequence[int]]) -> Float[np.ndarray, "rows dim"]:
        """Read rows padded on the right, where causal attention never looks."""
        model = self.decoder.expert
        longest = max(map(len, rows))
        ids = torch.tensor([[*row, *[row[-1]] * (longest - len(row))] for row in rows], device=model.device)
        lengths = torch.tensor([len(row) for row in rows], device=model.device)
        inside = torch.arange(longest, device=model.device) < lengths[:, None]
        base: Any = model.base_model
        states = base(input_ids=ids, attention_mask=inside.long(), use_cache=False).last_hidden_state.double()
        if self.pooling == "last":
            vectors = states[torch.arange(len(rows), device=model.device), lengths - 1]
        else:
            vectors = (states * inside[..., None]).sum(1) / lengths[:, None]
        array: Float[np.ndarray, "rows dim"] = vectors.cpu().numpy()
        return array

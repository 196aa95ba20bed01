"""A model that sees only the last tokens: a short-sighted amateur (Li et al. 2022, arXiv 2210.15097, §3.4)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from os import PathLike, fspath
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from descant.checks import whole
from descant.errors import SettingsError
from descant.models import inspect_model
from descant.models.architecture import Architecture
from descant.models.base import LanguageModel
from descant.models.hooks import head_reads
from descant.models.ragged import padded
from descant.models.rotary import restore_frequencies
from descant.sources.amateur import Amateur, Beside, Prepared, check_model, describe_model

_CHUNK = 64
"""Windows run at once: bounds the activations when many positions are asked for."""


@dataclass(frozen=True)
class Window(Amateur):
    """A model that sees only the last `tokens` tokens of the text (Li et al. 2022, arXiv 2210.15097, §3.4).

    Parameters
    ----------
    model
        The model; the expert may be its own short-sighted amateur. `Decoder.from_pretrained` also takes its name.
    tokens
        How many of the last tokens it is given, at least 1. Each costs a pass over that many tokens at every step.
    """

    model: PreTrainedModel | str | PathLike[str]
    tokens: int

    def __post_init__(self) -> None:
        model: Any = fspath(self.model) if isinstance(self.model, PathLike) else self.model
        check_model("Window", model)
        object.__setattr__(self, "model", model)
        tokens = whole("Window.tokens", self.tokens, 1, "show it at least 1 token")
        object.__setattr__(self, "tokens", tokens)

    @property
    def reads(self) -> PreTrainedModel | str:
        return self.model  # type: ignore[return-value]  # a path became its text

    def with_model(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None) -> "Window":
        del tokenizer
        return replace(self, model=model)

    def prepare(self, beside: Beside) -> Prepared:
        del beside
        if not isinstance(self.model, PreTrainedModel):
            raise SettingsError(
                f"Window holds the name {self.model!r}; load it with Decoder.from_pretrained, or give a model"
            )
        seen, tokens = inspect_model(self.model), self.tokens
        self.model.eval()
        if seen.context is not None and tokens > seen.context:
            raise SettingsError(
                f"a window of {tokens} tokens exceeds the amateur's context of {seen.context}; choose a smaller one"
            )
        return Prepared(lambda: WindowModel(seen, tokens), seen.width, None)

    def described(self) -> Any:
        return {"name": "Window", "model": describe_model(self.model), "tokens": self.tokens}


class WindowModel(LanguageModel):
    """Exactly a model that is given the last `tokens` tokens of the text and nothing else, at every position.

    There is no key-value cache: a cached key would carry what lay before the window, because it was computed from
    it. So each logit costs a pass over its window. Nothing needs to be undone when a row rolls back.
    """

    context = None

    def __init__(self, architecture: Architecture, tokens: int) -> None:
        self.architecture = architecture
        self.width = architecture.width
        self.device = architecture.model.device
        self.tokens = tokens
        self._rows: list[list[int]] = []

    @property
    def lengths(self) -> Sequence[int]:
        return [len(row) for row in self._rows]

    def add_rows(self, count: int) -> None:
        self._rows.extend([] for _ in range(count))

    def keep_rows(self, rows: Sequence[int]) -> None:
        self._rows = [list(self._rows[row]) for row in rows]

    def truncate(self, lengths: Sequence[int]) -> None:
        self._rows = [row[:length] for row, length in zip(self._rows, lengths, strict=True)]

    def forward(
        self, tokens: Sequence[Sequence[int]], *, keep: int = 1, first_row: int = 0
    ) -> Float[Tensor, "rows keep vocab"]:
        windows = []
        for row, new in zip(self._rows[first_row : first_row + len(tokens)], tokens, strict=True):
            row.extend(new)
            ends = range(len(row) - keep + 1, len(row) + 1)
            windows += [row[max(0, end - self.tokens) : max(end, 1)] for end in ends]
        chunks = [self._read(chunk) for chunk in self._chunks(windows)]
        return torch.cat(chunks).view(len(tokens), keep, -1)

    def _chunks(self, windows: Sequence[Sequence[int]]) -> Iterator[Sequence[Sequence[int]]]:
        """Cut windows into those that are read together; where padding can be felt, they are of one length."""
        ragged = self.architecture.cache == "ragged"
        for _, group in groupby(windows, key=lambda window: ragged or len(window)):
            alike = list(group)
            yield from (alike[start : start + _CHUNK] for start in range(0, len(alike), _CHUNK))

    def _read(self, windows: Sequence[Sequence[int]]) -> Float[Tensor, "windows vocab"]:
        model = self.architecture.model
        counts = [len(window) for window in windows]
        ids = padded(windows, counts, model.device)
        # Padding stands on the right, where a causal model cannot see it from the positions that are read.
        with self.architecture.lock, head_reads(self.architecture, counts, 1, ()):
            restore_frequencies(model, self.architecture.scaling)
            logits: Tensor = model(input_ids=ids, use_cache=False).logits
        return logits[:, -1]

"""The expert and its amateur, each kept at the same rows of text.

A source is brought up to date by telling it the text of every row: it reads whatever it has not read yet. One
operation therefore serves the prefill, a single token, a block of drafted tokens, and an amateur that was left out
for some steps and catches up.
"""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from descant.models.base import LanguageModel
from descant.models.huggingface import Exit, RaggedModel
from descant.types import Logits

_PREFILL_TOKENS = 8192
"""Padded tokens one pass over fresh rows may hold: bounds its activations."""


class Sources:
    """Rows of text as the expert and, where a method has one, the amateur have read them.

    Parameters
    ----------
    expert
        The model that is decoded.
    amateur
        Another model with its own rows, an early exit of the expert, or None.
    width
        The common vocabulary: logits of both are cut to it.
    """

    def __init__(self, expert: LanguageModel, amateur: LanguageModel | Exit | None, width: int) -> None:
        self.expert = expert
        self.amateur = amateur
        self.width = width
        self._exit_logits: Tensor | None = None

    @property
    def models(self) -> tuple[LanguageModel, ...]:
        """The models that hold rows."""
        return (self.expert, self.amateur) if isinstance(self.amateur, LanguageModel) else (self.expert,)

    @property
    def device(self) -> torch.device:
        """Where the expert's logits are."""
        return self.expert.device

    @property
    def amateur_costs_a_pass(self) -> bool:
        """Whether reading the amateur takes a forward pass of its own."""
        return isinstance(self.amateur, LanguageModel)

    def reserve(self, rows: int, length: int) -> None:
        """Check that rows of this length will fit (see `LanguageModel.reserve`)."""
        for model in self.models:
            model.reserve(rows, length)

    def add_rows(self, count: int) -> None:
        """Append empty rows to every model."""
        for model in self.models:
            model.add_rows(count)

    def keep_rows(self, rows: Sequence[int]) -> None:
        """Make old row `rows[i]` the new row i in every model."""
        for model in self.models:
            model.keep_rows(rows)

    def read(
        self, names: Sequence[str], texts: Sequence[Sequence[int]], keep: int = 1
    ) -> Mapping[str, Logits]:
        """Read each named source up to the end of the texts.

        Parameters
        ----------
        names
            `"expert"`, `"amateur"`, or both, the expert first.
        texts
            All tokens of every row. Each named source must have at least one of them left to read.
        keep
            For how many last positions of each row logits are returned.

        Returns
        -------
        Logits `[rows, keep, vocab]` by name, at least float32, cut to the common vocabulary.
        """
        return {name: self._prepare(self._read(name, texts, keep)) for name in names}

    def _read(self, name: str, texts: Sequence[Sequence[int]], keep: int) -> Tensor:
        if name == "amateur":
            if isinstance(self.amateur, LanguageModel):
                return torch.cat(
                    [
                        self.amateur.forward(tokens, keep=keep, first_row=first)
                        for first, tokens in _unread(self.amateur.lengths, texts)
                    ]
                )
            assert self._exit_logits is not None, "the expert is read before its exit"
            return self._exit_logits
        passes = list(_unread(self.expert.lengths, texts))
        if not isinstance(self.amateur, Exit):
            return torch.cat(
                [self.expert.forward(tokens, keep=keep, first_row=first) for first, tokens in passes]
            )
        assert isinstance(self.expert, RaggedModel), "only ragged models exit early"
        pairs = [
            self.expert.run(tokens, keep=keep, first_row=first, exits=(self.amateur,))
            for first, tokens in passes
        ]
        self._exit_logits = torch.cat([pair[1] for pair in pairs])
        return torch.cat([pair[0] for pair in pairs])

    def _prepare(self, logits: Tensor) -> Tensor:
        if logits.dtype not in (torch.float32, torch.float64):
            logits = logits.float()
        return logits[..., : self.width]


def _unread(
    lengths: Sequence[int], texts: Sequence[Sequence[int]]
) -> Iterator[tuple[int, list[Sequence[int]]]]:
    """Yield passes `(first row, unread tokens)`: running rows together, fresh rows within the token budget.

    A fresh row's prompt never pads the rows that run already, nor do many fresh rows make one huge pass.
    """
    first, batch, width = 0, list[Sequence[int]](), 0
    fresh_before = None
    for row, (length, text) in enumerate(zip(lengths, texts, strict=True)):
        tokens = text[length:]
        wider = max(width, len(tokens))
        over = wider * (len(batch) + 1) > _PREFILL_TOKENS
        if batch and ((length == 0) != fresh_before or over):
            yield first, batch
            first, batch, wider = row, [], len(tokens)
        batch.append(tokens)
        width, fresh_before = wider, length == 0
    if batch:
        yield first, batch

"""A model that reads another prompt before the same continuation."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from descant.models.base import LanguageModel


@dataclass(frozen=True)
class Replacement:
    """What a source reads in place of a row's prompt.

    Attributes
    ----------
    prompt_length
        How many tokens of the row are its prompt.
    tokens
        What is read instead: at least one token.
    """

    prompt_length: int
    tokens: Sequence[int]


class OtherPromptModel(LanguageModel):
    """A model for which every row's prompt is replaced; outwardly its rows are those of the expert.

    Both prompts are aligned at their ends: when this has been told of all the prompt's tokens but the last k, the
    model has read all of the other prompt but the last k (or nothing, if it is no longer than that). So the logits at
    the last token of the prompt, and at every later one, are those after the other prompt and the same continuation.

    Parameters
    ----------
    model
        Without rows; it is used by nothing else.
    """

    def __init__(self, model: LanguageModel) -> None:
        self.model = model
        self.width = model.width
        self.context = None  # other prompts have lengths of their own: the limit of each row takes care of it
        self.device = model.device
        self.why_not_truncate = model.why_not_truncate
        self.continues_in_blocks = model.continues_in_blocks
        self._replaced: list[Replacement] = []
        self._lengths: list[int] = []

    @property
    def lengths(self) -> Sequence[int]:
        return list(self._lengths)

    def replace(self, replaced: Sequence[Replacement]) -> None:
        """Say what the rows that are added next read, in their order."""
        self._replaced += replaced

    def add_rows(self, count: int) -> None:
        self.model.add_rows(count)
        self._lengths += [0] * count
        assert len(self._replaced) == len(self._lengths), "each row's other prompt is told before it is added"

    def keep_rows(self, rows: Sequence[int]) -> None:
        self.model.keep_rows(rows)
        self._replaced = [self._replaced[row] for row in rows]
        self._lengths = [self._lengths[row] for row in rows]

    def truncate(self, lengths: Sequence[int]) -> None:
        self._lengths = list(lengths)
        self.model.truncate([self._read(row, length) for row, length in enumerate(lengths)])

    def reserve(self, rows: int, length: int, beside: Sequence[LanguageModel] = ()) -> None:
        longer = max((len(other.tokens) - other.prompt_length for other in self._replaced), default=0)
        self.model.reserve(rows, length + max(0, longer), beside)

    def forward(
        self, tokens: Sequence[Sequence[int]], *, keep: int = 1, first_row: int = 0
    ) -> Float[Tensor, "rows keep vocab"]:
        new = [self._translate(row, part) for row, part in enumerate(tokens, start=first_row)]
        for row, part in enumerate(tokens, start=first_row):
            self._lengths[row] += len(part)
        if all(new):
            return self.model.forward(new, keep=keep, first_row=first_row)
        # A part of a prompt that is longer than the other one stands for nothing, and nobody asks for its logits.
        nothing = torch.zeros(1, keep, self.width, device=self.device)
        parts = [
            self.model.forward([part], keep=keep, first_row=row) if part else nothing
            for row, part in enumerate(new, start=first_row)
        ]
        return torch.cat(parts)

    def _read(self, row: int, length: int) -> int:
        """Return how many tokens the model has read of a row of which this has been told `length`."""
        other = self._replaced[row]
        return max(0, len(other.tokens) + length - other.prompt_length) if length else 0

    def _translate(self, row: int, tokens: Sequence[int]) -> list[int]:
        """Return what the model is to read when this is told of further tokens of a row."""
        other, held = self._replaced[row], self._lengths[row]
        start, end = self._read(row, held), self._read(row, held + len(tokens))
        return [*other.tokens[start:end], *tokens[max(0, other.prompt_length - held) :]]

"""The texts of the active rows as one tensor on the device, for the processors."""

from collections.abc import Sequence

import torch

from descant.processors.base import History


class HistoryBuffer:
    """Rows of tokens that grow, with room behind each for tokens that are only drafted.

    Row i holds `lengths[i]` tokens; what lies beyond is room, or drafts that the next tokens overwrite.
    """

    def __init__(self) -> None:
        self._tokens = torch.zeros(0, 0, dtype=torch.int64)
        self._lengths: list[int] = []
        self._prompt_lengths: list[int] = []
        self._batch_rows: list[int] = []

    def add_rows(self, texts: Sequence[Sequence[int]], batch_rows: Sequence[int], device: torch.device) -> None:
        """Append rows that hold their prompts, with their places in the call."""
        held = len(self._lengths)
        self._batch_rows += batch_rows
        self._lengths += [0] * len(texts)
        self._prompt_lengths += [len(text) for text in texts]
        self._resize(len(self._lengths), max(map(len, texts)), device)
        self.extend([[]] * held + list(texts))

    def keep_rows(self, rows: Sequence[int]) -> None:
        """Make old row `rows[i]` the new row i."""
        self._tokens = self._tokens[list(rows)]
        self._lengths = [self._lengths[row] for row in rows]
        self._prompt_lengths = [self._prompt_lengths[row] for row in rows]
        self._batch_rows = [self._batch_rows[row] for row in rows]

    def write(self, tokens: Sequence[Sequence[int]]) -> None:
        """Put tokens behind the end of each row without lengthening it: they are drafts."""
        self._resize(
            len(self._lengths),
            max((length + len(new) for length, new in zip(self._lengths, tokens, strict=True)), default=0),
            self._tokens.device,
        )
        places = [
            (row, length + ahead, token)
            for row, (length, new) in enumerate(zip(self._lengths, tokens, strict=True))
            for ahead, token in enumerate(new)
        ]
        if places:
            row, column, token = torch.tensor(places, device=self._tokens.device).unbind(-1)
            self._tokens[row, column] = token

    def follow(self, texts: Sequence[Sequence[int]]) -> None:
        """Lengthen each row to its text."""
        self.extend([text[length:] for text, length in zip(texts, self._lengths, strict=True)])

    def extend(self, tokens: Sequence[Sequence[int]]) -> None:
        """Lengthen each row by its tokens."""
        self.write(tokens)
        self._lengths = [length + len(new) for length, new in zip(self._lengths, tokens, strict=True)]

    def before(self, rows: Sequence[int], ahead: Sequence[int]) -> History:
        """Return what precedes each of some positions: `ahead[i]` drafted tokens beyond the end of row `rows[i]`."""
        device = self._tokens.device
        lengths = [self._lengths[row] + more for row, more in zip(rows, ahead, strict=True)]
        tokens = self._tokens[:, : max(lengths)]
        return History(
            tokens if list(rows) == list(range(len(self._lengths))) else tokens[list(rows)],
            torch.tensor(lengths, device=device),
            torch.tensor([self._prompt_lengths[row] for row in rows], device=device),
            torch.tensor([self._batch_rows[row] for row in rows], device=device),
        )

    def _resize(self, rows: int, width: int, device: torch.device) -> None:
        """Make room for rows and for tokens, of which there is half as much again."""
        held_rows, held_width = self._tokens.shape
        if rows <= held_rows and width <= held_width:
            return
        if width > held_width:
            width = width + width // 2 + 16
        grown = torch.zeros(rows, max(width, held_width), dtype=torch.int64, device=device)
        grown[:held_rows, :held_width] = self._tokens
        self._tokens = grown

"""Rows of the engine as `model.generate` shows them: one padded batch that grows by a column of tokens at a time.

transformers' processors, stopping criteria and streamers are made for such a batch. The engine's rows have no padding,
leave when they end, and under speculation gain several tokens at once.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import LogitsProcessorList, StoppingCriteriaList

from descant.processors import History, Processor
from descant.rows import Row


class Columns:
    """The batch of one call, up to the last column for which every row has a token or needs none.

    Parameters
    ----------
    ids
        `[rows, tokens]`: the prompts with their padding.
    rows
        The engine's rows, one each.
    criteria
        Asked after every column.
    pad
        Fills rows that have ended. None: such rows go on until all have ended, as transformers does where there is no
        end of sequence.
    streamer
        Given every column; or None.
    width
        Of the vocabulary that scores and logits are recorded over.

    Attributes
    ----------
    ids
        `[rows, columns]`: prompts and the tokens shown so far.
    prompt_width
        How many of the columns are the prompts.
    scores, logits
        One `[rows, vocab]` a column, float32: what tokens were chosen from, and what the expert said, if `observe` was
        told. Of a row that had ended: as if its padding were certain.
    """

    def __init__(
        self,
        ids: Tensor,
        rows: Sequence[Row],
        criteria: StoppingCriteriaList,
        pad: int | None,
        streamer: Any,
        width: int,
    ) -> None:
        self.ids = ids
        self.scores: tuple[Tensor, ...] = ()
        self.logits: tuple[Tensor, ...] = ()
        self.prompt_width = ids.shape[1]
        self._rows = rows
        self._criteria = criteria
        self._pad = pad
        self._streamer = streamer
        self._width = width
        self._stopped = [False] * len(rows)
        self._observed: list[list[tuple[Tensor, Tensor]]] = [[] for _ in rows]

    def observe(self, row: Row, scores: Tensor, logits: Tensor) -> None:
        """Keep what a token was chosen from (see `Engine`)."""
        self._observed[row.index].append((scores, logits))

    def advance(self) -> list[Row]:
        """Show every complete column; return the rows that need no more tokens."""
        while not all(self._stopped) and all(self._padded(row) or self._has_next(row) for row in self._rows):
            self._show()
        return [row for row in self._rows if self._padded(row) or all(self._stopped)]

    def with_texts(self, texts: dict[int, list[int]], width: int) -> Tensor:
        """Return the batch `[rows, width]` with the new tokens of some rows replaced, the others cut or filled."""
        batch = self.ids.new_full((len(self._rows), width), self._pad or 0)
        shown = min(width, self.ids.shape[1])
        batch[:, :shown] = self.ids[:, :shown]
        for row, tokens in texts.items():
            batch[row, self.prompt_width :] = self.ids.new_tensor(tokens)
        return batch

    def _padded(self, row: Row) -> bool:
        return self._stopped[row.index] and self._pad is not None

    def _has_next(self, row: Row) -> bool:
        return len(row.new_tokens) > self.ids.shape[1] - self.prompt_width

    def _show(self) -> None:
        place = self.ids.shape[1] - self.prompt_width
        tokens = [self._pad if self._padded(row) else row.new_tokens[place] for row in self._rows]
        column = self.ids.new_tensor(tokens)
        self._record(place)
        self.ids = torch.cat([self.ids, column[:, None]], dim=-1)
        verdicts = self._criteria(self.ids, self.scores or None).tolist()
        if self._streamer is not None:
            self._streamer.put(column.cpu())
        for row in self._rows:
            spent = row.finish_reason is not None and not self._has_next(row)  # the model's context is full
            self._stopped[row.index] |= verdicts[row.index] or spent

    def _record(self, place: int) -> None:
        if not any(self._observed):
            return
        recorded = torch.full((2, len(self._rows), self._width), -math.inf, device=self.ids.device)
        for row in self._rows:
            if self._padded(row):
                recorded[:, row.index, self._pad] = 0
            else:
                pair = torch.stack(self._observed[row.index][place])
                recorded[:, row.index, : pair.shape[-1]] = pair  # beyond lies what the amateur does not know
        self.scores, self.logits = (*self.scores, recorded[0]), (*self.logits, recorded[1])


@dataclass(frozen=True)
class BatchProcessors(Processor):
    """transformers' processors, handed the whole padded batch as `model.generate` would at each step.

    Some hold one number a row, some count rows, some keep state from step to step. Under speculation positions of one
    row come in several calls, and again if they were rejected: what keeps state is wrong there.

    Parameters
    ----------
    processors
        As `model.generate` prepared them.
    columns
        The batch.
    """

    processors: LogitsProcessorList
    columns: Columns

    def __call__(self, history: History, scores: Float[Tensor, "n vocab"]) -> Float[Tensor, "n vocab"]:
        assert history.batch_rows is not None
        batch_rows = history.batch_rows.tolist()
        starts, ends = history.prompt_lengths.tolist(), history.lengths.tolist()
        by_length: dict[int, list[int]] = {}
        for position, (start, end) in enumerate(zip(starts, ends, strict=True)):
            by_length.setdefault(end - start, []).append(position)
        processed = torch.empty_like(scores)
        for new, positions in by_length.items():
            rows = [batch_rows[position] for position in positions]
            texts = {
                row: history.tokens[position, starts[position] : ends[position]].tolist()
                for row, position in zip(rows, positions, strict=True)
            }
            processed[positions] = self._apply(texts, new, scores[positions])
        return processed

    def _apply(self, texts: dict[int, list[int]], new: int, scores: Tensor) -> Tensor:
        """Return the processed scores of rows that hold `new` tokens each."""
        columns = self.columns
        batch = columns.with_texts(texts, columns.prompt_width + new).to(scores.device)
        rows = list(texts)
        whole = scores.new_zeros(len(batch), scores.shape[-1])
        whole[rows] = scores
        return self.processors(batch, whole)[rows].to(scores)  # type: ignore[arg-type]

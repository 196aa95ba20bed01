"""transformers' own logits processors among descant's."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias, cast

import torch
from jaxtyping import Float
from torch import Tensor

from descant.errors import SettingsError
from descant.processors.base import History, Processor

LogitsFunction: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""`(input_ids [rows, length], scores [rows, vocab]) → scores`: what a transformers `LogitsProcessor` is."""


@dataclass(frozen=True)
class TransformersProcessor(Processor):
    """Apply a transformers `LogitsProcessor`, or a list of them, row by row.

    Each row is handed over alone, with its own tokens and no padding, in the dtype of the scores. A processor
    that keeps state from step to step sees the rows' calls interleaved; it is right only for a single row.

    Parameters
    ----------
    processor
        A `LogitsProcessor`, a `LogitsProcessorList`, or any callable of `(input_ids, scores)`.
    """

    processor: LogitsFunction

    def __post_init__(self) -> None:
        if not callable(self.processor):
            raise SettingsError(
                f"TransformersProcessor.processor is {self.processor!r}; give a transformers LogitsProcessor"
            )

    def __call__(self, history: History, scores: Float[Tensor, "n vocab"]) -> Float[Tensor, "n vocab"]:
        if len(scores) == 0:
            return scores
        rows = []
        for i, length in enumerate(history.lengths.tolist()):
            # Cloned, for some processors write into what they are given.
            row = self.processor(history.tokens[i : i + 1, :length].clone(), scores[i : i + 1].clone())
            if row.shape != scores[i : i + 1].shape:
                raise SettingsError(
                    f"{type(self.processor).__name__} returned scores of shape {list(row.shape)} for "
                    f"{[1, scores.shape[1]]}; a processor must keep the shape"
                )
            rows.append(row.to(scores))
        return torch.cat(rows)


def as_processor(value: object) -> Processor:
    """Return descant's processors as they are, and transformers' wrapped.

    Raises
    ------
    SettingsError
        If the value is neither.
    """
    if isinstance(value, Processor):
        return value
    from transformers import LogitsProcessor, LogitsProcessorList

    if isinstance(value, (LogitsProcessor, LogitsProcessorList)):
        return TransformersProcessor(cast(LogitsFunction, value))
    hint = " (an instance, not the class)" if isinstance(value, type) else ""
    raise SettingsError(
        f"{value!r} is not a processor; give one of descant's or a transformers LogitsProcessor{hint}, "
        "or wrap a function of (input_ids, scores) in TransformersProcessor"
    )

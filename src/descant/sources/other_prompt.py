"""A model that reads another prompt before the same continuation."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from descant.checks import shown, whole
from descant.describe import describe
from descant.errors import SettingsError
from descant.models import open_model
from descant.models.base import LanguageModel
from descant.models.wrapped import unwrapping
from descant.sources.amateur import Amateur, Beside, Prepared, describe_model, prepare_model


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


@dataclass(frozen=True)
class OtherPrompt(Amateur):
    """A model that reads another prompt and then the same continuation; the expert itself, with a cache of its own.

    For `ContextAware` the prompt without its context, for `Guidance` a negative prompt or none, for `Contrastive` a bad
    prompt.

    Parameters
    ----------
    prompt
        The other prompt: a text or token ids for all rows; or a function that is given each row's prompt as the call
        has it (a text, token ids, or a chat) and returns the other one; or None, where each call tells them by
        `amateur_prompts`. Texts are encoded as prompts are, chat template included.
    model
        Who reads it; None for the expert.
    """

    prompt: str | Sequence[int] | Callable[[Any], Any] | None = None
    model: PreTrainedModel | None = None

    def __post_init__(self) -> None:
        if self.model is not None and not isinstance(self.model, PreTrainedModel):
            raise SettingsError(
                f"OtherPrompt.model is {shown(self.model)}; "
                + unwrapping(self.model, "give a PreTrainedModel, or None")
            )
        if isinstance(self.prompt, Sequence) and not isinstance(self.prompt, str):
            remedy = "give a text, token ids, or a function"
            ids = tuple(whole("OtherPrompt.prompt", token, 0, remedy) for token in self.prompt)
            object.__setattr__(self, "prompt", ids)
        elif not (self.prompt is None or isinstance(self.prompt, str) or callable(self.prompt)):
            raise SettingsError(
                f"OtherPrompt.prompt is {shown(self.prompt)}; give a text, token ids, a function, or None"
            )

    @property
    def reads(self) -> PreTrainedModel | None:
        return self.model

    @property
    def needs(self) -> str:
        return (
            "OtherPrompt needs each prompt as it was before its padding and encoding; use Decoder(model, tokenizer, "
            "OtherPrompt(…)), or a model with the expert's tokens"
        )

    def prepare(self, beside: Beside) -> Prepared:
        expert, runner = beside.expert, beside.runner
        if self.model is not None:
            reader = prepare_model(self.model, beside)
        else:  # the expert's weights, and rows of their own
            reader = Prepared(lambda: open_model(expert, runner), expert.width, expert.context)

        def reading() -> LanguageModel:
            model = reader.open()
            assert isinstance(model, LanguageModel)
            return OtherPromptModel(model)

        why = (
            "a model that reads another prompt drafts only for a scoring that contrasts with it; give "
            "Speculative(draft=…): PromptLookup(3), EarlyExit(layer) or a model"
        )
        return Prepared(reading, reader.width, reader.context, why_no_draft=why, other_prompt=self)

    def described(self) -> Any:
        reader = None if self.model is None else describe_model(self.model)
        return {"name": "OtherPrompt", "prompt": describe(self.prompt), "model": reader}


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

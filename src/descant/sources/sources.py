"""The expert, its amateur and perhaps a draft model, each kept at the same rows of text.

A source is brought up to date by telling it the text of every row: it reads whatever it has not read yet. One
operation therefore serves the prefill, a single token, a block of drafted tokens, and an amateur that was left out
for some steps and catches up.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from descant.models.base import ByteSource, LanguageModel
from descant.models.hidden_states import HiddenStates
from descant.models.hooks import Exit
from descant.models.linears.narrow_head import Among
from descant.models.ragged import RaggedModel
from descant.sources.amateur import Source
from descant.sources.confident_exit import ConfidentModel
from descant.sources.other_prompt import OtherPromptModel, Replacement
from descant.types import Logits

_PASS_TOKENS = 8192
"""Padded tokens of one pass: bounds its activations."""

_ROW_TOKENS = 2048
"""Tokens of one row in one pass: bounds the attention mask, which has a column for every token before them."""


@dataclass(frozen=True)
class _Part:
    """Tokens for consecutive rows in one forward; `wanted` tells whether its logits are."""

    first_row: int
    tokens: list[Sequence[int]]
    wanted: bool = True


class Sources:
    """Rows of text as the expert and the other sources of a method have read them.

    Parameters
    ----------
    expert
        The model that is decoded.
    others
        Further sources by name: `"amateur"`, `"draft"`, those of the decoder, `"layer 8"`; each a model with rows of
        its own, an early exit of the expert, or a model with another tokenizer, which is asked and not read.
    width
        The common vocabulary: logits of all are brought to it.
    """

    def __init__(self, expert: LanguageModel, others: Mapping[str, Source], width: int) -> None:
        self.expert = expert
        self.others = dict(others)
        self.width = width
        self.bridges = {name: source for name, source in self.others.items() if isinstance(source, ByteSource)}
        self._exits = {name: source for name, source in self.others.items() if isinstance(source, Exit)}
        self._exit_logits: dict[str, Tensor] = {}

    @property
    def models(self) -> tuple[LanguageModel, ...]:
        """The models that hold rows."""
        return (self.expert, *(source for source in self.others.values() if isinstance(source, LanguageModel)))

    @property
    def _holders(self) -> tuple[LanguageModel | ByteSource, ...]:
        return (*self.models, *self.bridges.values())

    @property
    def device(self) -> torch.device:
        """Where the expert's logits are."""
        return self.expert.device

    def model(self, name: str) -> LanguageModel:
        """Return a source that holds rows."""
        source = self.expert if name == "expert" else self.others[name]
        assert isinstance(source, LanguageModel), f"the {name} is an early exit of the expert"
        return source

    @property
    def has_exits(self) -> bool:
        """Whether some source is an early exit of the expert."""
        return bool(self._exits)

    def costs_a_pass(self, name: str) -> bool:
        """Whether reading a source takes a forward pass of its own."""
        return name not in self._exits

    @property
    def layers_run(self) -> Sequence[Sequence[int]] | None:
        """For each row, how many layers of the expert gave each of its new tokens; None where tokens do not exit."""
        return self.expert.layers_run if isinstance(self.expert, ConfidentModel) else None

    def reserve(self, rows: int, length: int, forks: int = 1) -> None:
        """Check that rows of this length will fit in all models together (see `LanguageModel.reserve`).

        Where each row of the expert is to be forked, and of no other model, `forks` says how often it is there.
        """
        for model in self.models:
            beside = [other for other in self.models if other is not model]
            held = rows * forks if model is self.expert else rows
            model.reserve(held, length, _readers(beside))
        for bridge in self.bridges.values():
            bridge.reserve(rows, length, _readers(self.models))

    def add_rows(self, count: int, replaced: Sequence[Mapping[str, Replacement]] = ()) -> None:
        """Append empty rows to every model.

        Parameters
        ----------
        count
            How many.
        replaced
            For each of them, what sources by name read in place of its prompt; needed by those that do so.
        """
        for name, source in self.others.items():
            if isinstance(source, OtherPromptModel):
                source.replace([row[name] for row in replaced])
        for model in self._holders:
            model.add_rows(count)

    def keep_rows(self, rows: Sequence[int]) -> None:
        """Make old row `rows[i]` the new row i in every model."""
        for model in self._holders:
            model.keep_rows(rows)

    def rewind(self, lengths: Sequence[int], name: str | None = None) -> None:
        """Let one source, or every model, forget what it has read of row i beyond `lengths[i]` tokens."""
        for model in self.models if name is None else (self.model(name),):
            kept = [min(held, length) for held, length in zip(model.lengths, lengths, strict=True)]
            if kept != list(model.lengths):
                model.truncate(kept)

    def read(
        self,
        names: Sequence[str],
        texts: Sequence[Sequence[int]],
        keep: int = 1,
        hidden: HiddenStates | None = None,
        among: Among | None = None,
    ) -> Mapping[str, Logits]:
        """Read each named source up to the end of the texts.

        Parameters
        ----------
        names
            `"expert"` or others; an early exit after the expert, whose pass it shares.
        texts
            All tokens of every row.
        keep
            For how many last positions of each row logits are returned.
        hidden
            Takes the expert's final hidden states of all tokens that it reads.
        among
            For sources that are `narrow`: finds out the tokens whose logits matter. Those of others may be −inf.

        Returns
        -------
        Logits `[rows, keep, vocab]` by name, at least float32, brought to the common vocabulary; of the rows that had
        something left to read, which must be some.
        """
        return {name: self.prepare(self._read(name, texts, keep, hidden, among)) for name in names}

    def draft(self, name: str, texts: Sequence[Sequence[int]], count: int) -> tuple[Logits, Tensor] | None:
        """Have a source that holds rows read the texts and follow them, as `LanguageModel.draft` does.

        Drafts may lie beyond the common vocabulary.
        """
        model = self.model(name)
        unread = [text[length:] for length, text in zip(model.lengths, texts, strict=True)]
        found = model.draft(unread, count)
        if found is None:
            return None
        logits, ids = found
        return self.prepare(logits), ids

    def narrow(self, name: str) -> bool:
        """Whether a source is read in less time if the logits of few tokens matter."""
        source = self.others.get(name)
        return isinstance(source, RaggedModel) and source.narrowed is not None and source.width >= self.width

    def _read(
        self, name: str, texts: Sequence[Sequence[int]], keep: int, hidden: HiddenStates | None, among: Among | None
    ) -> Tensor:
        if name == "expert" and isinstance(self.expert, ConfidentModel):
            self.expert.start_rows([len(text) for text in texts])
        if name == "expert" and (self._exits or hidden is not None):
            return self._read_inside_expert(texts, keep, hidden)
        if name not in self._exits:
            return read_model(self.model(name), texts, keep, among)
        assert name in self._exit_logits, "the expert is read before its exits"
        return self._exit_logits[name]

    def _read_inside_expert(self, texts: Sequence[Sequence[int]], keep: int, hidden: HiddenStates | None) -> Tensor:
        """Read the expert, its early exits, and its hidden states."""
        expert, exits = self.expert, tuple(self._exits.values())
        assert isinstance(expert, RaggedModel), "only ragged models show what is inside"
        passes = []
        for part in _unread(expert, texts, keep):
            if part.wanted:
                passes.append(expert.run(part.tokens, keep=keep, first_row=part.first_row, exits=exits, hidden=hidden))
            else:
                expert.run(part.tokens, keep=1, first_row=part.first_row, exits=(), hidden=hidden)
        final, *exited = (_join(parts) for parts in zip(*passes, strict=True))
        self._exit_logits = dict(zip(self._exits, exited, strict=True))
        return final

    def prepare(self, logits: Tensor) -> Logits:
        """Bring logits `[..., vocab]` to the common vocabulary, and to float32 at least."""
        if logits.dtype not in (torch.float32, torch.float64):
            logits = logits.float()
        missing = self.width - logits.shape[-1]
        if missing > 0:  # a draft model's vocabulary may be smaller: it never proposes the rest
            return torch.nn.functional.pad(logits, (0, missing), value=-math.inf)
        return logits[..., : self.width] if missing else logits


def _readers(models: Sequence[LanguageModel]) -> list[LanguageModel]:
    """Return the models that hold keys and values of rows."""
    return [model.model if isinstance(model, OtherPromptModel) else model for model in models]


def read_model(model: LanguageModel, texts: Sequence[Sequence[int]], keep: int, among: Among | None = None) -> Tensor:
    """Bring one model up to the end of the texts; return the logits `[rows, keep, vocab]`."""
    forward = partial(model.forward, among=among) if isinstance(model, RaggedModel) else model.forward
    parts = []
    for part in _unread(model, texts, keep):
        logits = forward(part.tokens, keep=keep if part.wanted else 1, first_row=part.first_row)
        if part.wanted:
            parts.append(logits)
    return _join(parts)


def _join(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _unread(model: LanguageModel, texts: Sequence[Sequence[int]], keep: int) -> Iterator[_Part]:
    """Cut what is unread into passes: running rows together, fresh rows within the token budget, long rows alone.

    Rows that have been read are left out, if all running ones have been.

    So a fresh row's prompt never pads the rows that run already, many fresh rows make no huge pass, and a long text
    is read in parts, the last of which holds the `keep` positions whose logits are wanted.
    """
    lengths = list(model.lengths)
    unread = [text[length:] for length, text in zip(lengths, texts, strict=True)]
    row_tokens = max(_ROW_TOKENS, keep) if model.continues_in_blocks else max(map(len, unread), default=0)
    first = 0
    while first < len(unread):
        tokens = unread[first]
        if len(tokens) > row_tokens:
            last = (len(tokens) - keep) // _ROW_TOKENS * _ROW_TOKENS
            for start in range(0, last, _ROW_TOKENS):
                yield _Part(first, [tokens[start : start + _ROW_TOKENS]], wanted=False)
            yield _Part(first, [tokens[last:]])
            first += 1
            continue
        end, width = first, 0
        while end < len(unread) and (lengths[end] == 0) == (lengths[first] == 0):
            wider = max(width, len(unread[end]))
            if end > first and (wider * (end + 1 - first) > _PASS_TOKENS or wider > row_tokens):
                break
            end, width = end + 1, wider
        if width:
            yield _Part(first, unread[first:end])
        first = end

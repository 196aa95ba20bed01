"""Tokens that are forbidden, or favoured by a fixed amount."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from descant.checks import number, whole
from descant.errors import SettingsError
from descant.options import option
from descant.processors.base import History, Processor
from descant.processors.sparse import change_where


@dataclass(frozen=True)
class NoRepeatNGram(Processor):
    """Forbid every token that would complete an n-gram the history (prompt included) already holds.

    Paulus et al. 2017, "A Deep Reinforced Model for Abstractive Summarization" (arXiv 1705.04304).

    Parameters
    ----------
    n
        Length of the n-grams, at least 1; 1 forbids every token that was used.
    """

    rank = -3
    of_transformers = "no_repeat_ngram_size"
    shift_invariant = True
    capturable = True

    n: int = option("no_repeat_ngram", "Never repeat N tokens in a row.", of="N")

    def __post_init__(self) -> None:
        object.__setattr__(self, "n", whole("NoRepeatNGram.n", self.n, 1, "use a whole number from 1"))

    def __call__(self, history: History, scores: Float[Tensor, "n vocab"]) -> Float[Tensor, "n vocab"]:
        tokens, lengths = history.tokens, history.lengths[:, None]
        context = self.n - 1
        starts = tokens.shape[1] - context
        if starts <= 0:
            return scores
        last = torch.arange(context, tokens.shape[1], device=tokens.device)[None]
        repeats = last < lengths
        for offset in range(context):
            # A row shorter than its context has no n-gram either, so what is read there does not matter.
            recent = tokens.gather(1, (lengths - context + offset).clamp(min=0))
            repeats = repeats & (tokens[:, offset : offset + starts] == recent)
        return change_where(scores, tokens[:, context:], repeats, lambda x: torch.full_like(x, -math.inf))


@dataclass(frozen=True)
class BadWords(Processor):
    """Forbid sequences of tokens: their last token is forbidden where the history ends in all the others.

    Unlike `model.generate`, which silently allows an end-of-sequence id that was given as a bad word, every
    sequence given is forbidden.

    Parameters
    ----------
    sequences
        Token ids of each sequence. A word has several spellings in tokens (with and without a leading space,
        say); give each.
    """

    rank = -2
    shift_invariant = True

    sequences: Sequence[Sequence[int]]

    def __post_init__(self) -> None:
        sequences = tuple(tuple(_token_id("BadWords", token) for token in word) for word in self.sequences)
        if not sequences or not all(sequences):
            raise SettingsError(
                f"BadWords.sequences is {self.sequences!r}; give at least one sequence, and no empty one"
            )
        object.__setattr__(self, "sequences", sequences)

    def __call__(self, history: History, scores: Float[Tensor, "n vocab"]) -> Float[Tensor, "n vocab"]:
        for group in self._by_length:
            _check_width("BadWords", int(group.max()), scores)
            words = group.to(scores.device)
            context = words.shape[1] - 1
            matches = (history.lengths >= context)[:, None].expand(-1, len(words))
            for offset in range(context if history.tokens.shape[1] else 0):
                recent = history.tokens.gather(1, (history.lengths[:, None] - context + offset).clamp(min=0))
                matches = matches & (recent == words[:, offset])
            last = words[:, -1].expand(len(scores), -1)
            scores = change_where(scores, last, matches, lambda x: torch.full_like(x, -math.inf))
        return scores

    @cached_property
    def _by_length(self) -> tuple[Int64[Tensor, "words tokens"], ...]:
        by_length = groupby(sorted(self.sequences, key=len), key=len)
        return tuple(torch.tensor(list(words)) for _, words in by_length)


@dataclass(frozen=True)
class LogitBias(Processor):
    """Add a fixed amount to the scores of given tokens.

    Parameters
    ----------
    biases
        Token id → bias, as a mapping or as pairs; −inf forbids the token. Kept as pairs in order of ids.
    """

    rank = -7
    shift_invariant = True

    biases: Mapping[int, float] | Sequence[tuple[int, float]]

    def __post_init__(self) -> None:
        pairs = self.biases.items() if isinstance(self.biases, Mapping) else self.biases
        biases = {
            _token_id("LogitBias", token): number(
                f"LogitBias of token {token}",
                bias,
                lambda x: x < math.inf,
                "use a finite number, or -inf to forbid",
            )
            for token, bias in pairs
        }
        if len(biases) < len(self.biases):
            raise SettingsError(f"LogitBias.biases is {self.biases!r}; give each token id once")
        object.__setattr__(self, "biases", tuple(sorted(biases.items())))

    def __call__(self, history: History, scores: Float[Tensor, "n vocab"]) -> Float[Tensor, "n vocab"]:
        del history
        ids, amounts = self._tensors
        if len(ids) == 0:
            return scores
        _check_width("LogitBias", int(ids[-1]), scores)
        ids = ids.to(scores.device)
        return scores.index_add(1, ids, amounts.to(scores).expand(len(scores), -1))

    @cached_property
    def _tensors(self) -> tuple[Int64[Tensor, " tokens"], Float[Tensor, " tokens"]]:
        biases = dict(self.biases)
        ids = torch.tensor(list(biases), dtype=torch.int64)
        return ids, torch.tensor(list(biases.values()), dtype=torch.float64)

    def __repr__(self) -> str:
        # −inf has no literal, and what is printed can be pasted back.
        pairs = ", ".join(f"{token}: {bias!r}" for token, bias in dict(self.biases).items())
        return f"LogitBias({{{pairs}}})".replace("-inf", "float('-inf')")


@dataclass(frozen=True)
class MinNewTokens(Processor):
    """Forbid the end of the sequence until a number of tokens was generated.

    Parameters
    ----------
    n
        How many tokens come before an end-of-sequence id at least.
    eos_token_ids
        The ids that end a sequence; None: those of the model.
    """

    rank = -1
    of_transformers = "min_new_tokens"
    shift_invariant = True

    n: int = option("min_new_tokens", "No end of sequence before N tokens.", of="N")
    eos_token_ids: Sequence[int] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "n", whole("MinNewTokens.n", self.n, 0, "use a whole number from 0"))
        if self.eos_token_ids is not None:
            ids = tuple(_token_id("MinNewTokens.eos_token_ids", token) for token in self.eos_token_ids)
            object.__setattr__(self, "eos_token_ids", ids)

    def __call__(self, history: History, scores: Float[Tensor, "n vocab"]) -> Float[Tensor, "n vocab"]:
        if self.eos_token_ids is None:
            raise SettingsError(
                "MinNewTokens knows no end-of-sequence ids; give eos_token_ids, or call with_eos(ids) before"
            )
        ids = torch.tensor(self.eos_token_ids, dtype=torch.int64, device=scores.device)
        early = history.lengths - history.prompt_lengths < self.n
        return change_where(
            scores,
            ids.expand(len(scores), -1),
            early[:, None].expand(-1, len(ids)),
            lambda x: torch.full_like(x, -math.inf),
        )

    def with_eos(self, eos_token_ids: tuple[int, ...]) -> Processor:
        return self if self.eos_token_ids is not None else replace(self, eos_token_ids=eos_token_ids)


def _check_width(name: str, largest: int, scores: Float[Tensor, "n vocab"]) -> None:
    if largest >= scores.shape[1]:
        raise SettingsError(
            f"{name} names token {largest}, but the vocabulary ends at {scores.shape[1] - 1}; "
            "take the ids from this model's tokenizer"
        )


def _token_id(name: str, value: object) -> int:
    """Return a token id as an int, or raise."""
    return whole(name, value, 0, "give token ids: whole numbers from 0")

"""An n-gram model: the weakest of amateurs, and one that costs no pass."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from descant.checks import shown, whole
from descant.errors import SettingsError
from descant.models.base import LanguageModel
from descant.sources.amateur import Amateur, Beside, Prepared
from descant.tokens import encode


@dataclass(frozen=True)
class NGram(Amateur):
    """An n-gram model, which costs no forward pass (see `Counts` for its smoothing).

    Parameters
    ----------
    n
        How many tokens an n-gram has, from 1.
    texts
        What it is fitted on: texts, or rows of token ids. None: each row's own prompt and text, as it grows, so that
        contrast turns against repetition.
    """

    n: int = 3
    texts: Sequence[str] | Sequence[Sequence[int]] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "n", whole("NGram.n", self.n, 1, "give a whole number from 1"))
        if self.texts is not None:
            listed = isinstance(self.texts, Sequence) and not isinstance(self.texts, str)
            if not (listed and self.texts and all(isinstance(text, Sequence) for text in self.texts)):
                raise SettingsError(f"NGram.texts is {shown(self.texts)}; give a list of texts or of rows of token ids")
            texts = tuple(text if isinstance(text, str) else tuple(text) for text in self.texts)
            object.__setattr__(self, "texts", texts)

    def prepare(self, beside: Beside) -> Prepared:
        expert = beside.expert
        counts = Counts(self.n, expert.width, [self._ids(text, beside) for text in self.texts or ()])
        dtype = torch.promote_types(expert.model.dtype, torch.float32)

        def opened() -> LanguageModel:
            return NGramModel(counts, learns=self.texts is None, device=expert.model.device, dtype=dtype)

        return Prepared(opened, expert.width, None)

    def described(self) -> Any:
        return {"name": "NGram", "n": self.n, "texts": None if self.texts is None else len(self.texts)}

    def _ids(self, text: str | Sequence[int], beside: Beside) -> list[int]:
        """Return the token ids of a text that the model is fitted on."""
        ids: Sequence[int]
        if isinstance(text, str):
            if beside.tokenizer is None:
                raise SettingsError("NGram.texts are texts, and the decoder has no tokenizer; give rows of token ids")
            ids = encode(beside.tokenizer, text, chat=False)
        else:
            ids = text
        remedy = "give token ids of the expert"
        return [whole("NGram.texts", token, 0, remedy, most=beside.expert.width - 1) for token in ids]


class Counts:
    """How often each token followed each context of up to n − 1 tokens.

    Parameters
    ----------
    order
        n.
    width
        Size of the vocabulary.
    texts
        Token ids to count.
    """

    def __init__(self, order: int, width: int, texts: Iterable[Sequence[int]] = ()) -> None:
        self.order = order
        self.width = width
        self._following: defaultdict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
        self._unigrams: Tensor | None = None
        for text in texts:
            for end in range(len(text)):
                self.add(text, end)

    def add(self, text: Sequence[int], end: int) -> None:
        """Count the token at place `end` of a text, which follows its contexts there."""
        self._unigrams = None
        for context in self._contexts(text, end):
            self._following[context][text[end]] += 1

    def remove(self, text: Sequence[int], end: int) -> None:
        """Take back what `add` counted."""
        self._unigrams = None
        for context in self._contexts(text, end):
            following = self._following[context]
            following[text[end]] -= 1
            if not following[text[end]]:
                del following[text[end]]

    def copy(self) -> "Counts":
        """Return counts that go on separately."""
        other = Counts(self.order, self.width)
        for context, following in self._following.items():
            other._following[context] = following.copy()
        return other

    def probabilities(self, text: Sequence[int]) -> Float[Tensor, " vocab"]:
        """Return the probabilities of the token after a text, in float64.

        Witten–Bell smoothing, interpolated (Chen & Goodman 1998, "An Empirical Study of Smoothing Techniques for
        Language Modeling", section 2.4): with c(h, x) how often x followed the context h, c(h) their sum and t(h) how
        many different x did,

            p(x | h) = (c(h, x) + t(h) · p(x | h')) / (c(h) + t(h)),

        h' is h without its first token, and below the empty context all tokens are alike.
        """
        if self._unigrams is None:
            self._unigrams = self._interpolate((), torch.full((self.width,), 1 / self.width, dtype=torch.float64))
        probabilities = self._unigrams
        for context in self._contexts(text, len(text))[1:]:
            probabilities = self._interpolate(context, probabilities)
        return probabilities

    def _contexts(self, text: Sequence[int], end: int) -> list[tuple[int, ...]]:
        """Return what precedes place `end` of a text, from no token to n − 1 of them."""
        return [tuple(text[end - size : end]) for size in range(min(self.order - 1, end) + 1)]

    def _interpolate(self, context: tuple[int, ...], shorter: Float[Tensor, " vocab"]) -> Float[Tensor, " vocab"]:
        following = self._following.get(context)
        if not following:
            return shorter
        probabilities = shorter * len(following)
        probabilities[list(following)] += torch.tensor(list(following.values()), dtype=torch.float64)
        return probabilities / (following.total() + len(following))


class NGramModel(LanguageModel):
    """Predicts each token from the n − 1 before it, by counts.

    Parameters
    ----------
    counts
        What is known beforehand.
    learns
        Whether a row's own text is counted as it grows, for that row alone.
    device, dtype
        Of the logits.
    """

    context = None

    def __init__(self, counts: Counts, *, learns: bool, device: torch.device, dtype: torch.dtype) -> None:
        self.width = counts.width
        self.device = device
        self._dtype = dtype
        self._counts = counts
        self._learns = learns
        self._rows: list[tuple[list[int], Counts]] = []

    @property
    def lengths(self) -> Sequence[int]:
        return [len(text) for text, _ in self._rows]

    def add_rows(self, count: int) -> None:
        self._rows += [([], self._own(self._counts)) for _ in range(count)]

    def keep_rows(self, rows: Sequence[int]) -> None:
        kept, seen = [], set[int]()
        for row in rows:  # a row named again is a fork, and counts for itself
            text, counts = self._rows[row]
            kept.append((list(text), self._own(counts)) if row in seen else (text, counts))
            seen.add(row)
        self._rows = kept

    def truncate(self, lengths: Sequence[int]) -> None:
        for (text, counts), length in zip(self._rows, lengths, strict=True):
            while len(text) > length:
                if self._learns:
                    counts.remove(text, len(text) - 1)
                text.pop()

    def forward(
        self, tokens: Sequence[Sequence[int]], *, keep: int = 1, first_row: int = 0
    ) -> Float[Tensor, "rows keep vocab"]:
        logits = torch.zeros(len(tokens), keep, self.width, dtype=torch.float64)
        for row, new in enumerate(tokens):
            text, counts = self._rows[first_row + row]
            for left, token in zip(reversed(range(len(new))), new, strict=True):
                text.append(token)
                if self._learns:
                    counts.add(text, len(text) - 1)
                if left < keep:
                    logits[row, keep - 1 - left] = counts.probabilities(text).log()
        return logits.to(self.device, self._dtype)

    def _own(self, counts: Counts) -> Counts:
        return counts.copy() if self._learns else counts

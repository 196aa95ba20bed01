"""What a language model is to the rest of descant: rows of tokens that grow, shrink, and yield logits."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from descant.errors import UnsupportedModelError
from descant.types import Candidates, Logits


class LanguageModel(ABC):
    """A causal language model together with the rows of text it has read.

    Rows are numbered from 0 without gaps; each has a length of its own and never influences another. All state of
    a decode is in this object: the weights behind it are shared, and many such objects may read them.

    Attributes
    ----------
    width
        Width of the logits, which may exceed the number of tokens in the tokenizer's map (padding).
    context
        The most tokens a row may hold, or None where the model sets no bound.
    device
        Where its logits are.
    why_not_truncate
        Why `truncate`, which speculation needs, does not work; empty where it does.
    continues_in_blocks
        Whether a row that has been read in part reads further tokens in one pass; otherwise each takes its own.
    """

    width: int
    context: int | None
    device: torch.device
    why_not_truncate: str = ""
    continues_in_blocks: bool = True

    @property
    @abstractmethod
    def lengths(self) -> Sequence[int]:
        """How many tokens each row holds."""

    @abstractmethod
    def add_rows(self, count: int) -> None:
        """Append `count` empty rows. Mutates the rows alone."""

    @abstractmethod
    def keep_rows(self, rows: Sequence[int]) -> None:
        """Make old row `rows[i]` the new row i. Mutates.

        One mechanism for rows that leave (left out), reorder (permuted) and fork (named several times).
        """

    @abstractmethod
    def forward(
        self, tokens: Sequence[Sequence[int]], *, keep: int = 1, first_row: int = 0
    ) -> Float[Tensor, "rows keep vocab"]:
        """Append tokens to consecutive rows and return logits. Mutates the rows named.

        Parameters
        ----------
        tokens
            For each of the rows `first_row`, `first_row + 1`, …: at least one new token id. The numbers of tokens
            may differ: one call serves a prefill, one token a row, and a block of drafted tokens.
        keep
            Logits are returned for the last `keep` new tokens of each row. Where a row has fewer, its leading
            entries are undefined.

        Returns
        -------
        `[rows, keep, vocab]`, in the model's dtype.
        """

    def draft(
        self, tokens: Sequence[Sequence[int]], count: int
    ) -> tuple[Float[Tensor, "rows count vocab"], Int64[Tensor, "rows count"]] | None:
        """Append tokens to all rows and follow them greedily, where that takes less time than one by one.

        Parameters
        ----------
        tokens
            For every row at least one new token id.
        count
            How many tokens are drafted. All but the last are appended too, and perhaps further ones, for the caller
            to truncate. They must fit into the context.

        Returns
        -------
        The logits that each draft comes from, `[rows, count, vocab]`, and the drafts, `[rows, count]`; or None, and
        nothing was done.
        """
        del tokens, count
        return None

    @abstractmethod
    def truncate(self, lengths: Sequence[int]) -> None:
        """Forget the tokens of row i from `lengths[i]` on, for all rows. Mutates.

        Raises
        ------
        UnsupportedModelError
            If the model's state cannot be rolled back.
        """

    def check_truncate(self) -> None:
        """Raise `UnsupportedModelError` if rows cannot be rolled back."""
        if self.why_not_truncate:
            raise UnsupportedModelError(
                f"speculation must forget rejected tokens, which is impossible here: {self.why_not_truncate}; decode "
                "without it, or choose an attention-only model"
            )

    def reserve(self, rows: int, length: int, beside: "Sequence[LanguageModel]" = ()) -> None:
        """Check that `rows` rows of `length` tokens will fit, as far as can be told. Does not allocate.

        Parameters
        ----------
        rows, length
            What the decode may reach.
        beside
            Models whose own reservations must fit as well.

        Raises
        ------
        OutOfMemoryError
            With the figure, if they cannot.
        """
        del rows, length, beside


class ByteSource(ABC):
    """A model with another tokenizer, which judges tokens of the expert by their bytes; it keeps rows of its own."""

    @abstractmethod
    def add_rows(self, count: int) -> None:
        """Append `count` empty rows."""

    @abstractmethod
    def keep_rows(self, rows: Sequence[int]) -> None:
        """Make old row `rows[i]` the new row i."""

    @abstractmethod
    def reserve(self, rows: int, length: int, beside: Sequence[LanguageModel] = ()) -> None:
        """Check that rows of this length will fit (see `LanguageModel.reserve`)."""

    @abstractmethod
    def judge(
        self,
        texts: Sequence[Sequence[int]],
        asked: Sequence[int],
        expert: Logits,
        candidates: Candidates,
    ) -> Logits:
        """Return the log-probability that text goes on with the bytes of candidates.

        Parameters
        ----------
        texts
            All tokens of every row, the expert's.
        asked
            The rows at whose ends something is asked.
        expert, candidates
            `[asked, vocab]`: the expert's logits there, and what is asked.

        Returns
        -------
        `[asked, vocab]`, as the expert's logits are. A token that was not asked, or that the model cannot spell, is
        as probable as to the expert: of it the model has no opinion.
        """

    @abstractmethod
    def draft(self, texts: Sequence[Sequence[int]], most: Sequence[int], confidence: float) -> list[list[int]]:
        """Return at most `most[i]` tokens of the expert's, which go on from text i as the model's best tokens do."""

"""A text in the tokens of one tokenizer, read by a model with another."""

import codecs
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from descant.tokens.bytes import token_bytes
from descant.tokens.text import encode_open

_CONTEXT = 4
"""Last tokens of a text that are encoded together with what follows it."""


@dataclass(frozen=True)
class Respelled:
    """A text as another tokenizer has it.

    Attributes
    ----------
    tokens
        Its tokens, those put before every text included.
    pending
        Bytes at the end that no token holds yet: a character's first bytes, or (WordPiece) the space after a word.
    context
        The end of the text, as far as it decides how what follows is read.
    partial
        The unfinished character at the end.
    begun
        Whether the first tokenizer's tokens spell anything, be it only the space that opens its texts.
    """

    tokens: list[int]
    pending: bytes
    context: str
    partial: bytes
    begun: bool


class Respeller:
    """Turns texts from the tokens of one tokenizer into those of another.

    A text is what its tokens spell; where a special token has a namesake in the other tokenizer it is written out, and
    becomes that, and else it is left out, as is the first tokenizer's beginning of sequence. Bytes that are no UTF-8
    become U+FFFD, but for an unfinished character at the end.

    Parameters
    ----------
    own, other
        The tokenizers from which and to which.

    Raises
    ------
    VocabularyError
        If one of them has no table of bytes (see `token_bytes`).
    """

    def __init__(self, own: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase) -> None:
        self.own = token_bytes(own)
        self.other = token_bytes(other)
        self._own_tokenizer = own
        self._tokenizer = other
        self._head, _ = encode_open(other, "a")
        if not self._head:
            first = other.bos_token_id if other.bos_token_id is not None else other.eos_token_id
            self._empty = [] if first is None else [int(first)]
        else:
            self._empty = self._head
        self._names = {
            token_id: content for content, token_id in self.own.special.items() if content in self.other.special
        }

    def bytes_of(self, ids: Sequence[int]) -> bytes:
        """Return the bytes of a whole text."""
        return self._without_opening(self._spell(ids))

    def respell(self, ids: Sequence[int]) -> Respelled:
        """Return a text, given in the first tokenizer's tokens, in the other's."""
        characters = codecs.getincrementaldecoder("utf-8")("replace")
        spelled = self._spell(ids)
        text, begun = characters.decode(self._without_opening(spelled)), bool(spelled)
        partial = characters.getstate()[0]
        tokens = list(self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]) if text else []
        if self.other.kind != "wordpiece":
            opening = b" " if not text and self.other.opens_with_space else b""
            return Respelled(
                self._head + tokens if tokens else list(self._empty), opening + partial, "", partial, begun
            )
        context = text[max(text.rfind(space) for space in (" ", "\n", "\t")) :] if text[-1:].strip() else text[-1:]
        pending = (b" " if context[-1:].isspace() else b"") + partial
        return Respelled(self._head + tokens if tokens else list(self._empty), pending, context, partial, begun)

    def following(self, text: Respelled, token_id: int) -> bytes | None:
        """Return what a token of the first tokenizer adds to a text, in the other's bytes, after its pending ones.

        None if it adds nothing that the other could read.
        """
        added = self.own[token_id]
        if not added:
            return None
        if not text.begun:
            added = self._without_opening(added)
        if self.other.kind != "wordpiece":
            return added or None
        characters = codecs.getincrementaldecoder("utf-8")("replace")
        whole = characters.decode(text.partial + added)
        before, after = self._as_words(text.context), self._as_words(text.context + whole)
        if not after.startswith(before):
            return None
        grown = after[len(before) :].encode() + characters.getstate()[0]
        return grown[len(text.partial) :] or None if grown.startswith(text.partial) else None

    def back(self, ids: Sequence[int], data: bytes) -> list[int] | None:
        """Return bytes that follow a text in the first tokenizer's tokens, as it has them there; None if it cannot."""
        last = list(ids[-_CONTEXT:])
        try:
            before, text = self.bytes_of(last).decode(), data.decode()
        except UnicodeDecodeError:
            return None
        whole = list(self._own_tokenizer(before + text, add_special_tokens=False, verbose=False)["input_ids"])
        return whole[len(last) :] if whole[: len(last)] == last else None

    def _spell(self, ids: Sequence[int]) -> bytes:
        """Return what the first tokenizer's tokens spell, the space that opens its texts included."""
        if ids and ids[0] == self._own_tokenizer.bos_token_id:
            ids = ids[1:]
        return b"".join(self.own[token_id] or self._names.get(token_id, "").encode() for token_id in ids)

    def _without_opening(self, data: bytes) -> bytes:
        return data.removeprefix(b" ") if self.own.opens_with_space else data

    def _as_words(self, text: str) -> str:
        """Write a text as WordPiece sees it: a space before every word and mark, and one for white space at the end."""
        backend = self._tokenizer.backend_tokenizer
        normal = text if backend.normalizer is None else backend.normalizer.normalize_str(text)
        words = backend.pre_tokenizer.pre_tokenize_str(normal)
        return "".join(f" {word}" for word, _ in words) + (" " if text[-1:].isspace() else "")

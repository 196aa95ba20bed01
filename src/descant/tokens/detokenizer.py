"""Tokens to text, one token at a time.

Law: whatever the ids, the pieces returned by `Detokenizer.push`, followed by `Detokenizer.flush`,
concatenate to `decode_after(tokenizer, before, ids)`, and what was returned never changes. Work is constant for a
token, whatever came before.

`tokenizers.DecodeStream` does not keep this law: it holds a token back for ever once its text ends in a
replacement character, has no flush, and decodes all that it holds anew with every token. Two decoders replace
it:

- Byte-level vocabularies (GPT-2, Llama 3, Qwen): a token is a string of bytes, whatever its neighbours, so an
  incremental UTF-8 decoder is exact, and only the up to three bytes of an unfinished character are held back.
- Everything else is decoded in a window: the latest tokens again with those just before them, which tell the
  tokenizer that it is in the middle of a text. Tokens that are parts of characters are held until the run of
  them ends, because tokenizers with byte fallback decide on the run as a whole whether it is text. Where a
  token may change the text before it (CTRL writes "wor@@" and then "ld" as "world"), text waits until the
  next token has confirmed it.
"""

import codecs
import copy
import json
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

from tokenizers import decoders
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from descant.tokens.bytes import byte_alphabet
from descant.tokens.text import common_prefix, decode

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

_LONGEST_CONTEXT = 32
"""Bound on the tokens kept as context; more than one is only kept where tokens decode to no text at all."""

_APPENDING = {
    "ByteLevel",
    "BPEDecoder",
    "ByteFallback",
    "Fuse",
    "Metaspace",
    "Replace",
    "Sequence",
    "WordPiece",
}
"""Decoders of `tokenizers` whose text only ever grows at its end when a token follows."""


class Detokenizer:
    """Turns one row's tokens into text as they come.

    Parameters
    ----------
    tokenizer
        Any transformers tokenizer.
    before
        The tokens that come before, whose text is known: the prompt's.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, before: Sequence[int] = ()) -> None:
        kind = _Bytes if _is_byte_level(tokenizer) else _Window
        self._decoder: _Incremental = kind(tokenizer, before)

    def push(self, token_id: int) -> str:
        """Add a token and return the text that is certain by now, and was not before."""
        return self._decoder.push(token_id)

    def flush(self) -> str:
        """Return what was held back, as it reads now; of text that follows, what reads so too is not returned again."""
        return self._decoder.flush()

    def special(self, token_id: int) -> str | None:
        """Return how a special token is written, which `push` leaves out; None for any other token."""
        return self._decoder.special(token_id)

    def fork(self) -> "Detokenizer":
        """Return a detokenizer of the same tokens that goes its own way."""
        twin = copy.copy(self)
        twin._decoder = self._decoder.fork()
        return twin


@runtime_checkable
class _Incremental(Protocol):
    """What both ways of decoding offer."""

    def push(self, token_id: int) -> str: ...

    def flush(self) -> str: ...

    def special(self, token_id: int) -> str | None: ...

    def fork(self) -> "_Incremental": ...


class _Tokens:
    """Looks up the token behind an id; None for ids that decode to nothing: special, or not in the map."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._backend = getattr(tokenizer, "backend_tokenizer", None) if tokenizer.is_fast else None
        if self._backend is not None:
            added = self._backend.get_added_tokens_decoder().items()
            self.special = {token_id: token.content for token_id, token in added if token.special}
        else:
            self.special = dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
            self._size = len(tokenizer)

    def __getitem__(self, token_id: int) -> str | None:
        if token_id in self.special:
            return None
        if self._backend is not None:
            token: str | None = self._backend.id_to_token(token_id)
            return token
        return str(self._tokenizer.convert_ids_to_tokens(token_id)) if token_id < self._size else None


class _Bytes:
    """Decodes a byte-level vocabulary, in which each character of a token stands for one byte."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, before: Sequence[int]) -> None:
        self._tokens = _Tokens(tokenizer)
        self._characters = codecs.getincrementaldecoder("utf-8")("replace")
        self._byte = byte_alphabet()
        self._flushed = ""  # The unfinished character, as it was returned.
        end = b""
        for token_id in reversed(before):
            if len(end) >= 3:  # No more bytes of a character can lack the rest.
                break
            end = self._bytes(token_id) + end
        self._characters.decode(end)
        self.flush()

    def push(self, token_id: int) -> str:
        text = self._characters.decode(self._bytes(token_id))
        if not text:
            return ""
        known, self._flushed = self._flushed, ""
        return text[common_prefix(known, text) :]

    def flush(self) -> str:
        known, self._flushed = self._flushed, self._characters.getstate()[0].decode("utf-8", "replace")
        return self._flushed[len(known) :]

    def special(self, token_id: int) -> str | None:
        return self._tokens.special.get(token_id)

    def fork(self) -> "_Bytes":
        twin = copy.copy(self)
        twin._characters = copy.copy(self._characters)
        return twin

    def _bytes(self, token_id: int) -> bytes:
        token = self._tokens[token_id]
        if token is None:
            return b""
        try:
            return bytes([self._byte[character] for character in token])
        except KeyError:  # An added token, which is written as it reads.
            return token.encode("utf-8")


class _Window:
    """Decodes the latest tokens together with a context that was decoded before.

    The window is cut into groups: a group is one token that is text by itself, or a run of tokens that are
    not. A context may begin with any group, but not within one.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, before: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._tokens = _Tokens(tokenizer)
        self._appending = _only_appends(tokenizer)
        self._context: list[list[int]] = []
        self._text = ""  # The context, decoded.
        self._sent = ""  # What has been returned of it, and of the run.
        self._run: list[int] = []
        self._begin(before)

    def push(self, token_id: int) -> str:
        if self._tokens[token_id] is None:
            return ""
        if self._is_part(token_id):
            self._run.append(token_id)
            return ""
        return self._settle(token_id)

    def flush(self) -> str:
        known, self._sent = self._sent, self._decode([*self._context, self._run])
        return self._sent[common_prefix(known, self._sent) :]

    def whole(self, ids: Sequence[int]) -> str:
        """Return what the text gains by tokens that follow all at once."""
        text = self._decode([*self._context, self._run, list(ids)])
        return text[common_prefix(self._sent, text) :]

    def special(self, token_id: int) -> str | None:
        if token_id not in self._tokens.special:
            return None
        before = [token for group in (*self._context, self._run) for token in group]
        # Some decoders put a space before it, as before any word.
        text = decode(self._tokenizer, [*before, token_id], special=True)
        return text[common_prefix(decode(self._tokenizer, before), text) :]

    def fork(self) -> "_Window":
        twin = copy.copy(self)
        twin._run = self._run.copy()
        return twin

    def _begin(self, before: Sequence[int]) -> None:
        """Take up a text at its end: the run that is not settled, and the fewest groups before that are some text."""
        for count, group in enumerate(self._groups(before)):
            if count == 0 and self._is_part(group[0]):
                self._run = group
                continue
            self._context.insert(0, group)
            self._text = self._decode(self._context)
            if self._text or len(self._context) == _LONGEST_CONTEXT:
                break
        self.flush()

    def _groups(self, ids: Sequence[int]) -> Iterator[list[int]]:
        """Cut tokens into groups, and yield the last first."""
        run: list[int] = []
        for token_id in reversed(ids):
            if self._tokens[token_id] is None:
                continue
            if self._is_part(token_id):
                run.append(token_id)
                continue
            if run:
                yield run[::-1]
                run = []
            yield [token_id]
        if run:
            yield run[::-1]

    def _is_part(self, token_id: int) -> bool:
        """Say whether a token may be a part of a character."""
        token = self._tokens[token_id] or ""
        is_byte = len(token) == 6 and token.startswith("<0x") and token.endswith(">")
        return is_byte or _REPLACEMENT in decode(self._tokenizer, [token_id])

    def _settle(self, token_id: int) -> str:
        """Decode the run that this token ends, and the token."""
        groups = [*self._context, self._run, [token_id]] if self._run else [*self._context, [token_id]]
        self._run = []
        text = self._decode(groups)
        sent = common_prefix(self._sent, text)
        certain = max(sent, len(text) if self._appending else common_prefix(self._text, text))
        self._shorten(groups, text, text[certain:])
        return text[sent:certain]

    def _shorten(self, groups: list[list[int]], text: str, pending: str) -> None:
        """Keep as context the fewest last groups that decode to some text before what is pending."""
        for context in _endings(groups):
            tail = self._decode(context)
            if len(tail) > len(pending) and tail.endswith(pending):
                groups, text = context, tail
                break
        if len(groups) > _LONGEST_CONTEXT:
            # All of these decode to nothing, or the search above had ended: the oldest still mark the
            # beginning.
            groups = [*groups[: _LONGEST_CONTEXT // 2], *groups[-_LONGEST_CONTEXT // 2 :]]
            text = self._decode(groups)
        self._context, self._text, self._sent = groups, text, text[: max(0, len(text) - len(pending))]

    def _decode(self, groups: list[list[int]]) -> str:
        return decode(self._tokenizer, [token_id for group in groups for token_id in group])


def decode_after(tokenizer: PreTrainedTokenizerBase, before: Sequence[int], ids: Sequence[int]) -> str:
    """Return what the text of some tokens gains by those that follow it, as `decode` writes all of them.

    A decoder may write a token in other ways at a text's beginning: those of SentencePiece take away the first space.
    """
    return _Window(tokenizer, before).whole(ids)


def _endings(groups: list[list[int]]) -> Iterator[list[list[int]]]:
    """Yield the last group, the last two, and so on."""
    for count in range(1, len(groups)):
        yield groups[-count:]


def _is_byte_level(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Say whether decoding maps each character of a token to a byte, and does nothing else."""
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        return False
    own = type(tokenizer)
    inherited = own.decode is PreTrainedTokenizerFast.decode and own._decode is PreTrainedTokenizerFast._decode
    return inherited and isinstance(tokenizer.backend_tokenizer.decoder, decoders.ByteLevel)


def _only_appends(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Say whether a token can never change the text of the tokens before it."""
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        return False
    decoder = tokenizer.backend_tokenizer.decoder
    return decoder is None or _appends(json.loads(decoder.__getstate__()))


def _appends(decoder: dict[str, Any]) -> bool:
    """Say the same of one decoder, as `tokenizers` writes it."""
    kind = decoder["type"]
    if kind == "Strip":
        return not decoder["stop"]
    return kind in _APPENDING and all(_appends(part) for part in decoder.get("decoders", ()))

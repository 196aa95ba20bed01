"""The bytes that each token of a vocabulary stands for.

- *Byte-level BPE* (GPT-2, Llama 3, Qwen): each character of a token is one byte.
- *SentencePiece* (Llama 2, Mistral, T5; BPE or Unigram): `▁` is a space, `<0x0A>` a byte; the tokenizer may put a space
  before a text, which decoding takes away again.
- *WordPiece* (BERT): a token that begins with `##` continues a word, any other begins one and stands for a space and
  itself. White space and case are not in these tokens, so a text is compared as WordPiece sees it: normalised, its
  words and punctuation marks with one space before each (" can ' t").

Special tokens (and an unknown one) stand for no bytes.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from descant.errors import VocabularyError

Kind = Literal["byte-level", "sentencepiece", "wordpiece"]

_SPACE = "▁"
_PROBE = "The cat sat, and 2 dogs ran."


@dataclass(frozen=True)
class TokenBytes:
    """What the ids of a tokenizer stand for.

    Attributes
    ----------
    kind
        How its tokens are written.
    spelled
        The bytes of every id; None for those without: special tokens, gaps.
    special
        Ids of the special tokens by their content.
    opens_with_space
        Whether the bytes of a whole text begin with a space that is not in the text.
    """

    kind: Kind
    spelled: tuple[bytes | None, ...]
    special: Mapping[str, int]
    opens_with_space: bool

    def __getitem__(self, token_id: int) -> bytes | None:
        """Return the bytes of an id, known or not."""
        return self.spelled[token_id] if 0 <= token_id < len(self.spelled) else None

    def join(self, ids: Sequence[int]) -> bytes:
        """Return the bytes of tokens in a row; special ones have none."""
        return b"".join(self[token_id] or b"" for token_id in ids)


def token_bytes(tokenizer: PreTrainedTokenizerBase) -> TokenBytes:
    """Return the bytes behind a tokenizer's ids.

    Raises
    ------
    VocabularyError
        If the tokenizer is of no kind above, or changes texts (letter case, say) in a way its tokens do not show.
    """
    kind = _kind(tokenizer)
    backend: Any = tokenizer.backend_tokenizer
    added = backend.get_added_tokens_decoder()
    unspelled = {*tokenizer.all_special_ids, *(token_id for token_id, token in added.items() if token.special)}
    written = {token_id: token for token, token_id in tokenizer.get_vocab().items()}
    spelled: list[bytes | None] = [None] * (max(written, default=-1) + 1)
    for token_id, token in written.items():
        if token_id in unspelled:
            continue
        spelled[token_id] = added[token_id].content.encode() if token_id in added else _spell(token, kind)
    special = {written[token_id]: token_id for token_id in unspelled if token_id in written}
    special.pop(str(tokenizer.unk_token), None)
    table = TokenBytes(kind, tuple(spelled), special, opens_with_space=kind == "wordpiece")
    if kind == "wordpiece":
        return table
    normal = _PROBE if backend.normalizer is None else backend.normalizer.normalize_str(_PROBE).replace(_SPACE, " ")
    if normal.strip(" ") != _PROBE:
        raise VocabularyError(
            f"the tokenizer rewrites text ({_PROBE!r} becomes {normal!r}), so its tokens cannot be compared by bytes; "
            "choose a model whose tokenizer keeps text as it is"
        )
    first = table.join(tokenizer("a", add_special_tokens=False)["input_ids"])
    return replace(table, opens_with_space=first.startswith(b" "))


def _kind(tokenizer: PreTrainedTokenizerBase) -> Kind:
    if tokenizer.is_fast:
        backend: Any = tokenizer.backend_tokenizer
        if type(backend.model).__name__ == "WordPiece":
            return "wordpiece"
        decoder = {} if backend.decoder is None else json.loads(backend.decoder.__getstate__())
        steps = decoder.get("decoders", [decoder])
        kinds = {step.get("type") for step in steps}
        if "ByteLevel" in kinds:
            return "byte-level"
        spaces = any(step.get("pattern") == {"String": _SPACE} for step in steps)
        if "Metaspace" in kinds or spaces:
            return "sentencepiece"
    raise VocabularyError(
        f"a {type(tokenizer).__name__} of this kind has no table of bytes; byte-level BPE, SentencePiece and WordPiece "
        "have, as fast tokenizers: choose a model with one of them"
    )


def _spell(token: str, kind: Kind) -> bytes:
    if kind == "byte-level":
        try:
            return bytes([_BYTE[character] for character in token])
        except KeyError:  # not from the byte alphabet: written as it reads
            return token.encode()
    if kind == "wordpiece":
        return (token.removeprefix("##") if token.startswith("##") and token != "##" else f" {token}").encode()
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return bytes([int(token[3:5], 16)])
    return token.replace(_SPACE, " ").encode()


def byte_alphabet() -> Mapping[str, int]:
    """Return the byte that each character of a byte-level token stands for (Radford et al. 2019, GPT-2)."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = sorted(set(range(0x100)) - set(visible))
    # Bytes without a visible character are written with the first characters above them, in order.
    return {chr(byte): byte for byte in visible} | {chr(0x100 + index): byte for index, byte in enumerate(hidden)}


_BYTE = byte_alphabet()

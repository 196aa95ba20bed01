"""The bytes of tokens, against what tokenizers decode."""

from collections.abc import Callable
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import normalizers
from transformers import ByT5Tokenizer, PreTrainedTokenizerBase

import tiny_tokenizers
from checkpoints import qwen_tokenizer, sentencepiece_tokenizer, suffix_tokenizer, wordpiece_tokenizer
from descant import VocabularyError
from descant.tokens import decode
from descant.tokens.bytes import TokenBytes, token_bytes

MAKERS: dict[str, Callable[[], PreTrainedTokenizerBase]] = {
    "byte-level": qwen_tokenizer,
    "sentencepiece": sentencepiece_tokenizer,
    "wordpiece": wordpiece_tokenizer,
}


@cache
def made(kind: str) -> tuple[PreTrainedTokenizerBase, TokenBytes]:
    tokenizer = MAKERS[kind]()
    return tokenizer, token_bytes(tokenizer)


@pytest.mark.parametrize("kind", MAKERS)
def test_kind_is_recognised(kind: str) -> None:
    assert made(kind)[1].kind == kind


@pytest.mark.parametrize("kind", ["byte-level", "sentencepiece"])
@given(text=st.text(alphabet="abHW é世😀\n.,", min_size=1, max_size=20))
@settings(max_examples=100)
def test_joined_bytes_are_the_text(kind: str, text: str) -> None:
    tokenizer, table = made(kind)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    opening = " " if table.opens_with_space else ""
    assert table.join(ids).decode() == opening + text


@pytest.mark.parametrize("kind", ["byte-level", "sentencepiece"])
@given(data=st.data())
@settings(max_examples=100)
def test_joined_bytes_decode_as_the_tokens_do(kind: str, data: st.DataObject) -> None:
    tokenizer, table = made(kind)
    ids = data.draw(st.lists(st.integers(0, len(tokenizer) + 5), min_size=1, max_size=8))
    found = table.join(ids)
    try:
        text = found.decode()
    except UnicodeDecodeError:
        return  # how tokenizers show bytes that are no text is their own affair
    assert (text.removeprefix(" ") if table.opens_with_space else text) == decode(tokenizer, ids)


@given(words=st.lists(st.sampled_from(["hello", "world", "worlds", "the", ".", "dog"]), min_size=1, max_size=6))
def test_wordpiece_puts_a_space_before_every_word(words: list[str]) -> None:
    tokenizer, table = made("wordpiece")
    ids = tokenizer(" ".join(words), add_special_tokens=False)["input_ids"]
    assert table.join(ids).decode() == "".join(f" {word}" for word in words)


def test_bytes_of_single_tokens() -> None:
    tokenizer, table = made("byte-level")
    assert table[tokenizer.convert_tokens_to_ids("Ġ")] == b" "
    assert table[tokenizer.convert_tokens_to_ids("Ã")] == b"\xc3"
    assert table[tokenizer.convert_tokens_to_ids("<tool_call>")] == b"<tool_call>"
    assert table[tokenizer.convert_tokens_to_ids("<|im_end|>")] is None
    assert table[len(tokenizer) + 100] is None
    tokenizer, table = made("sentencepiece")
    assert table[tokenizer.convert_tokens_to_ids("<0x0A>")] == b"\n"
    assert table[tokenizer.convert_tokens_to_ids("▁▁")] == b"  "
    assert table[0] is None
    tokenizer, table = made("wordpiece")
    assert table[tokenizer.convert_tokens_to_ids("##ld")] == b"ld"
    assert table[tokenizer.convert_tokens_to_ids("[UNK]")] is None
    assert "[UNK]" not in table.special


@pytest.mark.parametrize("make", [suffix_tokenizer, ByT5Tokenizer])
def test_tokenizers_without_bytes_are_refused(make: Callable[[], PreTrainedTokenizerBase]) -> None:
    with pytest.raises(VocabularyError, match="choose a model"):
        token_bytes(make())


def test_tokenizers_that_rewrite_text_are_refused() -> None:
    tokenizer = sentencepiece_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Lowercase(), normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    with pytest.raises(VocabularyError, match="rewrites"):
        token_bytes(tokenizer)


@pytest.mark.parametrize(
    ("tokenizer", "text", "ids"),
    [
        (tiny_tokenizers.byte_level(["a b", "Ġ ab"]), "ab ab", [5, 6]),
        (tiny_tokenizers.sentencepiece("▁ab"), "ab ab", [11, 11]),
        (tiny_tokenizers.wordpiece("ab"), "ab ab", [10, 10]),
    ],
)
def test_tiny_tokenizers_tokenize(tokenizer: PreTrainedTokenizerBase, text: str, ids: list[int]) -> None:
    assert tokenizer(text, add_special_tokens=False)["input_ids"] == ids

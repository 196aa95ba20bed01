"""Texts in another tokenizer's tokens, against both tokenizers applied to whole texts."""

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

import tiny_tokenizers
from checkpoints import qwen_tokenizer, sentencepiece_tokenizer, wordpiece_tokenizer
from descant.tokens import Respeller

QWEN, LLAMA, BERT = qwen_tokenizer(), sentencepiece_tokenizer(), wordpiece_tokenizer()
TEXTS = st.text(alphabet="abeholdwr \n.,'é世", min_size=1, max_size=16)


def words(text: str) -> str:
    """A text as WordPiece sees it."""
    return "".join(f" {word}" for word in re.findall(r"\w+|[^\w\s]", text))


@pytest.mark.parametrize(("own", "other"), [(QWEN, LLAMA), (LLAMA, QWEN), (QWEN, BERT)])
@given(text=TEXTS)
@settings(max_examples=60)
def test_texts_are_read_as_the_other_tokenizer_reads_them(
    own: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase, text: str
) -> None:
    read = Respeller(own, other).respell(own(text)["input_ids"])
    whole = other(text)["input_ids"]
    assert read.tokens == (whole[:-1] if other is BERT else whole)
    assert read.pending == (b" " if other is BERT and text[-1].isspace() else b"")


@given(before=st.text(alphabet="ab. \n", max_size=10), after=st.text(alphabet="ab. \n", min_size=1, max_size=5))
@settings(max_examples=200)
def test_what_follows_in_words_is_what_makes_the_whole_text(before: str, after: str) -> None:
    """Token by token, every text comes out with one space before each word and mark."""
    respeller = Respeller(QWEN, BERT)
    ids, grown = list(QWEN(before)["input_ids"]), respeller._as_words(before)
    for token_id in QWEN(after)["input_ids"]:
        added = respeller.following(respeller.respell(ids), token_id)
        grown += (added or b"").decode()
        ids.append(token_id)
    assert grown.rstrip(" ") == words(before + after)
    assert grown.endswith(" ") == after[-1].isspace()


@given(text=TEXTS, cut=st.integers(0, 40))
@example(text="  ", cut=0)
@example(text="  a", cut=1)
@settings(max_examples=60)
def test_bytes_that_follow_make_up_the_text(text: str, cut: int) -> None:
    respeller = Respeller(LLAMA, QWEN)
    ids = LLAMA(text)["input_ids"]
    cut = min(cut, len(ids) - 1)
    read = respeller.respell(ids[:cut])
    data = respeller.bytes_of(ids[:cut])
    for place in range(cut, len(ids)):
        data += respeller.following(respeller.respell(ids[:place]), ids[place]) or b""
    assert data == text.encode()
    assert respeller.other.join(read.tokens) + read.pending == respeller.bytes_of(ids[:cut])


def test_an_unfinished_character_is_pending() -> None:
    respeller = Respeller(QWEN, LLAMA)
    first, second = QWEN.convert_tokens_to_ids(["Ã", "©"])
    read = respeller.respell([QWEN.convert_tokens_to_ids("a"), first])
    assert (read.tokens, read.pending) == (LLAMA("a")["input_ids"], b"\xc3")
    assert respeller.following(read, second) == b"\xa9"


def test_special_tokens_become_their_namesakes_or_nothing() -> None:
    ids = QWEN("<|im_start|>a<|im_end|>")["input_ids"]
    assert Respeller(QWEN, LLAMA).respell(ids).tokens == LLAMA("a")["input_ids"]
    chat = tiny_tokenizers.byte_level([], end="<|im_end|>")
    assert Respeller(QWEN, chat).respell(ids).tokens == [1, 0]
    assert Respeller(LLAMA, QWEN).respell(LLAMA("a")["input_ids"]).tokens == QWEN("a")["input_ids"]


@given(text=TEXTS, cut=st.integers(1, 12))
@settings(max_examples=60)
def test_text_goes_back_to_tokens_that_follow(text: str, cut: int) -> None:
    respeller = Respeller(QWEN, LLAMA)
    ids = QWEN(text)["input_ids"]
    back = respeller.back(ids[:cut], respeller.own.join(ids[cut:]))
    if back is not None:
        assert respeller.bytes_of([*ids[:cut], *back]) == text.encode()

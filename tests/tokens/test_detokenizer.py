"""The incremental detokenizer against a decode of everything at once."""

import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models
from transformers import ByT5Tokenizer, CTRLTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from checkpoints import (
    SlowSentencePiece,
    metaspace_tokenizer,
    qwen_tokenizer,
    sentencepiece_tokenizer,
    suffix_tokenizer,
    wordpiece_tokenizer,
)
from counting import calls_of
from descant.tokens import Detokenizer, decode, decode_after


@cache
def tokenizer_of(kind: str) -> PreTrainedTokenizerBase:
    makers: dict[str, Callable[[], PreTrainedTokenizerBase]] = {
        "byte-level": qwen_tokenizer,
        "byte-level in a sequence": _sequence_tokenizer,
        "sentencepiece": sentencepiece_tokenizer,
        "metaspace": metaspace_tokenizer,
        "wordpiece": wordpiece_tokenizer,
        "suffix": suffix_tokenizer,
        "no decoder": lambda: _with_decoder(None, ""),
        "slow bytes": ByT5Tokenizer,
        "slow sentencepiece": SlowSentencePiece,
    }
    return makers[kind]()


KINDS = [
    "byte-level",
    "byte-level in a sequence",
    "sentencepiece",
    "metaspace",
    "wordpiece",
    "suffix",
    "no decoder",
    "slow bytes",
    "slow sentencepiece",
]


def _sequence_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = qwen_tokenizer()
    tokenizer.backend_tokenizer.decoder = decoders.Sequence([decoders.ByteLevel()])
    return tokenizer


def _with_decoder(decoder: decoders.Decoder | None, *more: str) -> PreTrainedTokenizerFast:
    words = ["<unk>", "a", "b", "ab", "ba", "\N{REPLACEMENT CHARACTER}", "é", *more]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    if decoder is not None:
        tokenizer.decoder = decoder
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


def pieces_of(tokenizer: PreTrainedTokenizerBase, ids: list[int], before: Sequence[int] = ()) -> list[str]:
    detokenizer = Detokenizer(tokenizer, before)
    return [*(detokenizer.push(token_id) for token_id in ids), detokenizer.flush()]


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_pieces_are_the_text_for_any_ids(kind: str, data: st.DataObject) -> None:
    tokenizer = tokenizer_of(kind)
    size = len(tokenizer)
    some = st.integers(0, size + 30) | st.integers(0, min(size, 12) - 1) | st.just(5_000_000)
    ids = data.draw(st.lists(some, max_size=40))
    assert "".join(pieces_of(tokenizer, ids)) == decode(tokenizer, ids)


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_the_text_after_other_tokens_is_what_the_whole_has_more(kind: str, data: st.DataObject) -> None:
    tokenizer = tokenizer_of(kind)
    size = len(tokenizer)
    some = st.integers(0, size + 30) | st.integers(0, min(size, 12) - 1)
    before, ids = data.draw(st.lists(some, max_size=12)), data.draw(st.lists(some, max_size=12))
    start, whole = decode(tokenizer, before), decode(tokenizer, before + ids)
    gained = next(whole[count:] for count in range(len(start), -1, -1) if whole.startswith(start[:count]))
    assert decode_after(tokenizer, before, ids) == gained
    assert "".join(pieces_of(tokenizer, ids, before)) == gained


@pytest.mark.parametrize("kind", ["sentencepiece", "metaspace", "wordpiece", "suffix", "slow sentencepiece"])
def test_the_space_before_the_first_word_is_text(kind: str) -> None:
    tokenizer = tokenizer_of(kind)
    words = [7, 7] if kind == "suffix" else tokenizer("hello hello", add_special_tokens=False)["input_ids"]
    before, ids = words[: len(words) // 2], words[len(words) // 2 :]
    assert "".join(pieces_of(tokenizer, ids, before)) == " hello"
    assert decode(tokenizer, before) + decode_after(tokenizer, before, ids) == "hello hello"
    assert decode_after(tokenizer, [], ids) == "hello"


def test_a_character_that_the_tokens_before_begin_is_told_whole() -> None:
    for kind, halves in (("byte-level", ["Ã", "©"]), ("sentencepiece", ["<0xC3>", "<0xA9>"])):
        tokenizer = tokenizer_of(kind)
        first, second = tokenizer.convert_tokens_to_ids(halves)
        assert "".join(pieces_of(tokenizer, [second], [first])) == "é"
        assert "".join(pieces_of(tokenizer, [first], [first])) == "�"
    newline, hello = tokenizer.convert_tokens_to_ids(["<0x0A>", "▁Hello"])
    assert pieces_of(tokenizer, [hello], [hello, newline]) == [" Hello", ""]


@pytest.mark.parametrize("kind", ["byte-level", "sentencepiece", "byte-level in a sequence"])
@given(text=st.text(alphabet="ab é世😀\n\N{REPLACEMENT CHARACTER}<", max_size=30), data=st.data())
@settings(max_examples=100, deadline=None)
def test_pieces_are_the_text_for_text_cut_anywhere(kind: str, text: str, data: st.DataObject) -> None:
    tokenizer = tokenizer_of(kind)
    ids = tokenizer(text)["input_ids"]
    start = data.draw(st.integers(0, len(ids)))
    ids = ids[start : data.draw(st.integers(start, len(ids)))]
    assert "".join(pieces_of(tokenizer, ids)) == decode(tokenizer, ids)


@given(data=st.binary(max_size=24))
@settings(max_examples=300, deadline=None)
def test_any_bytes_decode_as_the_tokenizer_decodes_them(data: bytes) -> None:
    tokenizer = tokenizer_of("byte-level")
    alphabet = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    letters = {bytes([byte]): _byte_token(alphabet, byte) for byte in set(data)}
    ids = [letters[bytes([byte])] for byte in data]
    assert "".join(pieces_of(tokenizer, ids)) == decode(tokenizer, ids) == data.decode("utf-8", "replace")


def _byte_token(tokenizer: Tokenizer, byte: int) -> int:
    visible = 0x21 <= byte <= 0x7E or 0xA1 <= byte <= 0xAC or byte >= 0xAE
    hidden = [b for b in range(256) if not (0x21 <= b <= 0x7E or 0xA1 <= b <= 0xAC or b >= 0xAE)]
    token_id = tokenizer.token_to_id(chr(byte) if visible else chr(0x100 + hidden.index(byte)))
    assert token_id is not None
    return token_id


@given(ids=st.lists(st.sampled_from([1, 3, 4]), min_size=1, max_size=20))
@settings(deadline=None)
def test_text_that_the_next_token_may_change_waits_for_it(ids: list[int]) -> None:
    stripping = decoders.Sequence([decoders.Fuse(), decoders.Strip("b", 0, 1)])
    tokenizer = _with_decoder(stripping)
    assert "".join(pieces_of(tokenizer, ids)) == decode(tokenizer, ids)


def test_slow_tokenizer_that_joins_words_keeps_the_law(tmp_path: Path) -> None:
    words = ["<unk>", "hello", "wor@@", "ld", "a", "foo@@"]
    (tmp_path / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
    (tmp_path / "merges.txt").write_text("#version\n")
    tokenizer = CTRLTokenizer(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"))
    assert not tokenizer.is_fast

    @given(ids=st.lists(st.integers(0, 12), max_size=20))
    @settings(max_examples=200, deadline=None)
    def check(ids: list[int]) -> None:
        assert "".join(pieces_of(tokenizer, ids)) == decode(tokenizer, ids)

    check()
    pieces = pieces_of(tokenizer, [1, 2, 3, 4, 1, 1])
    assert "".join(pieces[:-1]) == "hello world a hello"


def test_a_character_is_never_broken_and_comes_as_soon_as_it_is_whole() -> None:
    tokenizer = tokenizer_of("byte-level")
    ids = tokenizer("😀😀 x")["input_ids"]
    assert len(ids) > 6
    pieces = pieces_of(tokenizer, ids)
    assert all("\N{REPLACEMENT CHARACTER}" not in piece for piece in pieces)
    assert [piece for piece in pieces if piece][:2] == ["😀", "😀"]


def test_text_comes_with_its_token() -> None:
    for kind in ("byte-level", "sentencepiece", "metaspace", "wordpiece", "suffix"):
        tokenizer = tokenizer_of(kind)
        ids = tokenizer("hello world the dog", add_special_tokens=False)["input_ids"]
        if kind == "suffix":
            ids = [7, 8, 9, 7]
        detokenizer = Detokenizer(tokenizer)
        for count, token_id in enumerate(ids, 1):
            detokenizer.push(token_id)
            assert detokenizer.flush() == "", f"{kind}: text of token {count} was held back"


def test_byte_fallback_is_decided_by_the_whole_run() -> None:
    tokenizer = tokenizer_of("sentencepiece")
    a, invalid, hello = (tokenizer.convert_tokens_to_ids(t) for t in ("<0x41>", "<0xFF>", "▁Hello"))
    assert pieces_of(tokenizer, [hello, a, hello]) == ["Hello", "", "A Hello", ""]
    # A later byte turns the "A" before it into a replacement character: it must not have been shown.
    assert pieces_of(tokenizer, [a, invalid, hello]) == ["", "", "�� Hello", ""]


def test_special_tokens_and_padding_ids_are_no_text() -> None:
    tokenizer = tokenizer_of("byte-level")
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    (letter,) = tokenizer("a")["input_ids"]
    ids = [letter, end, len(tokenizer) + 3, letter, end]
    assert pieces_of(tokenizer, ids) == ["a", "", "", "a", "", ""]
    assert decode(tokenizer, ids) == "aa"


@pytest.mark.parametrize("kind", ["byte-level", "sentencepiece", "metaspace", "wordpiece"])
def test_work_for_a_token_does_not_grow(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = tokenizer_of(kind)
    decoded = 0
    original = type(tokenizer).decode

    def counting(self: PreTrainedTokenizerBase, ids: list[int], **options: object) -> object:
        nonlocal decoded
        decoded += len(ids)
        return original(self, ids, **options)

    monkeypatch.setattr(type(tokenizer), "decode", counting)
    junk = [(index * 7919) % (len(tokenizer) + 10) for index in range(2000)]
    same = [3] * 2000
    for ids in (junk, same):
        decoded = 0
        pieces_of(tokenizer, ids)
        assert decoded < 20 * len(ids)


def test_bytes_take_calls_in_proportion_to_the_text() -> None:
    tokenizer = tokenizer_of("byte-level")
    ids = tokenizer("The quick brown fox. 世界 " * 50)["input_ids"]
    pieces_of(tokenizer, ids[:10])
    half, whole = (calls_of(lambda part=part: pieces_of(tokenizer, part)) for part in (ids, ids * 2))
    assert len(ids) < half
    assert whole < 2.05 * half

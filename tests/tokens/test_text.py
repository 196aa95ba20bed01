"""Encoding of prompts, chats and continuations."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from checkpoints import (
    metaspace_tokenizer,
    qwen_tokenizer,
    sentencepiece_tokenizer,
    wordpiece_tokenizer,
)
from descant.errors import PromptError, SettingsError
from descant.tokens import decode, encode, encode_continuation

QWEN = qwen_tokenizer()
LLAMA = sentencepiece_tokenizer()

WITH_BOS = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "[{{ m['role'] }}] {{ m['content'] }}{% endfor %}{% if add_generation_prompt %}[model]{% endif %}"
)
IGNORES_SYSTEM = "{% for m in messages if m['role'] != 'system' %}{{ m['content'] }}{% endfor %}"


def llama_with(template: str) -> PreTrainedTokenizerFast:
    tokenizer = sentencepiece_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


def test_plain_text_is_what_the_tokenizer_makes_of_it() -> None:
    for tokenizer in (QWEN, LLAMA, wordpiece_tokenizer()):
        assert encode(tokenizer, "hello world", chat=False) == tokenizer("hello world")["input_ids"]


def test_chat_is_what_transformers_makes_of_it() -> None:
    messages = [{"role": "user", "content": "Hello"}]
    for system in (None, "Be brief.", ""):
        whole = messages if system is None else [{"role": "system", "content": system}, *messages]
        expected = QWEN.apply_chat_template(whole, add_generation_prompt=True)["input_ids"]
        assert encode(QWEN, "Hello", chat=True, system=system) == expected
        assert encode(QWEN, messages, chat=True, system=system) == expected
    default = QWEN.decode(encode(QWEN, "Hello", chat=True))
    assert default.startswith("<|im_start|>system\nYou are Qwen")
    assert default.endswith("<|im_start|>assistant\n")


def test_bos_is_never_doubled() -> None:
    tokenizer = llama_with(WITH_BOS)
    bos = tokenizer.bos_token_id
    for template in (WITH_BOS, "{{ bos_token }}" + WITH_BOS):
        tokenizer.chat_template = template
        ids = encode(tokenizer, "hello", chat=True)
        assert ids[0] == bos
        assert ids.count(bos) == 1


def test_system_message_that_the_template_cannot_express_is_refused() -> None:
    with pytest.raises(PromptError, match=r"takes no system message \(System role.*head of the prompt"):
        encode(llama_with(WITH_BOS), "hello", chat=True, system="Be brief.")
    with pytest.raises(PromptError, match="ignores the system message"):
        encode(llama_with(IGNORES_SYSTEM), "hello", chat=True, system="Be brief.")
    with pytest.raises(PromptError, match="refuses these messages"):
        encode(llama_with("{{ raise_exception('never') }}"), "hello", chat=True, system="Be brief.")
    with pytest.raises(PromptError, match="refuses these messages"):
        encode(llama_with("{% if %}"), "hello", chat=True)


def test_chat_needs_a_template_and_system_needs_chat() -> None:
    with pytest.raises(PromptError, match=r"no chat template.*chat=False"):
        encode(LLAMA, "hello", chat=True)
    with pytest.raises(SettingsError, match="chat=True"):
        encode(QWEN, "hello", chat=False, system="Be brief.")
    with pytest.raises(PromptError, match="chat=True"):
        encode(QWEN, [{"role": "user", "content": "hello"}], chat=False)
    with pytest.raises(SettingsError, match="already"):
        encode(QWEN, [{"role": "system", "content": "x"}], chat=True, system="y")


@pytest.mark.parametrize("prompt", [[], [{"role": "user"}]])
def test_malformed_messages_are_refused(prompt: list[dict[str, str]]) -> None:
    with pytest.raises(PromptError, match="at least one message"):
        encode(QWEN, prompt, chat=True)


def test_empty_or_broken_text_is_refused() -> None:
    for chat in (False, True):
        for tokenizer in (QWEN, LLAMA):  # also where the tokenizer would put a bos
            with pytest.raises(PromptError, match=r"empty|no chat template"):
                encode(tokenizer, "", chat=chat)
    with pytest.raises(PromptError, match="Unicode"):
        encode(QWEN, "a\udc80", chat=False)


def test_decode_skips_special_tokens_and_padding_ids_only() -> None:
    ids = QWEN("don 't , <|im_end|><tool_call>")["input_ids"]
    assert decode(QWEN, [*ids, 10_000]) == "don 't , <tool_call>"


def test_continuation_is_split_where_the_prompt_ends() -> None:
    prompt, continuation = encode_continuation(QWEN, "The capital of France", " is Paris.")
    assert prompt == QWEN("The capital of France")["input_ids"]
    assert decode(QWEN, continuation) == " is Paris."


def test_straddling_token_is_scored_with_the_continuation() -> None:
    prompt, continuation = encode_continuation(LLAMA, "Hello wor", "ld")
    assert LLAMA.convert_ids_to_tokens(prompt) == ["<s>", "▁Hello"]
    assert LLAMA.convert_ids_to_tokens(continuation) == ["▁world"]


def test_nothing_left_to_condition_on_splits_the_spelling() -> None:
    prompt, continuation = encode_continuation(QWEN, "The qui", "ck")
    assert decode(QWEN, prompt + continuation) == "The quick"
    merged = "The"
    assert len(QWEN(merged)["input_ids"]) == 1
    prompt, continuation = encode_continuation(QWEN, "T", "he")
    assert (decode(QWEN, prompt), decode(QWEN, continuation)) == ("T", "he")


def test_split_that_would_change_the_text_is_refused() -> None:
    tokenizer = metaspace_tokenizer()
    tokenizer.backend_tokenizer.post_processor = sentencepiece_without_bos().backend_tokenizer.post_processor
    with pytest.raises(PromptError, match="end of a word"):
        encode_continuation(tokenizer, "wor", "ld")


def sentencepiece_without_bos() -> PreTrainedTokenizerFast:
    from tokenizers.processors import TemplateProcessing

    tokenizer = sentencepiece_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing("$A", special_tokens=[])
    return tokenizer


def test_empty_prompt_is_the_beginning_of_sequence() -> None:
    assert encode_continuation(LLAMA, "", "Hello")[0] == [LLAMA.bos_token_id]
    tokenizer = sentencepiece_without_bos()
    assert encode_continuation(tokenizer, "", "Hello")[0] == [tokenizer.bos_token_id]
    with pytest.raises(PromptError, match="no beginning-of-sequence"):
        encode_continuation(QWEN, "", "Hello")


def test_empty_continuation_is_refused() -> None:
    for tokenizer, prompt in ((QWEN, "Hello"), (LLAMA, "Hello"), (LLAMA, "")):
        with pytest.raises(PromptError, match="continuation is empty"):
            encode_continuation(tokenizer, prompt, "")


def test_tokens_put_after_a_text_are_left_out() -> None:
    tokenizer = wordpiece_tokenizer()
    prompt, continuation = encode_continuation(tokenizer, "hello", "world.")
    # Without a space between them the two words are one, which this vocabulary does not have.
    assert tokenizer.convert_ids_to_tokens(prompt + continuation) == ["[CLS]", "[UNK]", "."]
    prompt, continuation = encode_continuation(tokenizer, "hello", " world.")
    assert tokenizer.convert_ids_to_tokens(prompt) == ["[CLS]", "hello"]
    assert tokenizer.convert_ids_to_tokens(continuation) == ["world", "."]


@given(prompt=st.text("The quickwor ld.é\n", min_size=1), continuation=st.text("brown dogs.é ", min_size=1))
@settings(max_examples=200, deadline=None)
def test_both_parts_spell_the_whole(prompt: str, continuation: str) -> None:
    for tokenizer in (QWEN, LLAMA):
        first, second = encode_continuation(tokenizer, prompt, continuation)
        whole = tokenizer(prompt + continuation)["input_ids"]
        assert first
        assert second
        if first + second != whole:
            assert whole[0] != tokenizer(prompt)["input_ids"][0]
            assert decode(tokenizer, first + second) == decode(tokenizer, whole)
        own = tokenizer(prompt)["input_ids"]
        if whole[: len(own)] == own and len(whole) > len(own):
            assert first == own

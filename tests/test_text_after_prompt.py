"""The text of an output is what the decoded whole has more than the decoded prompt: the first space included."""

from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

import architectures
from checkpoints import (
    SlowSentencePiece,
    metaspace_tokenizer,
    qwen_tokenizer,
    sentencepiece_tokenizer,
    wordpiece_tokenizer,
)
from descant import Beam, Decoder, Sample, Temperature

TOKENIZERS = {
    "llama": sentencepiece_tokenizer,
    "metaspace": metaspace_tokenizer,
    "slow": SlowSentencePiece,
    "wordpiece": wordpiece_tokenizer,
    "bytes": qwen_tokenizer,
}
DRAWN: dict[str, Any] = {"strategy": Sample(), "processors": [Temperature(3.0)], "seed": 5, "max_new_tokens": 12}
BEAMS: dict[str, Any] = {"strategy": Beam(3), "max_new_tokens": 6}


def decoded(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_prompt_and_text_are_the_decoded_whole(kind: str) -> None:
    tokenizer = TOKENIZERS[kind]()
    decoder = Decoder(architectures.build("llama", vocab_size=len(tokenizer)), tokenizer)
    prompts = ["hello", "hello world", "a", "world."]
    for settings in (DRAWN, BEAMS):
        outs = decoder.generate(prompts, **settings)
        others = [other for out in outs for other in out.alternatives]
        for out in [*outs, *others]:
            whole = decoded(tokenizer, out.prompt_token_ids + out.token_ids)
            assert decoded(tokenizer, out.prompt_token_ids) + out.text == whole
        watched = decoder.generate(prompts, stop="never", **settings)
        assert [out.text for out in watched] == [out.text for out in outs]
        streamed = [""] * len(prompts)
        for piece in decoder.stream(prompts, **settings):
            streamed[piece.index] += piece.text
        assert streamed == [out.text for out in outs]


WRITTEN = {
    "llama": ["<s>", "▁Hello", "▁world", "▁the", "▁dog"],
    "metaspace": ["<s>", "▁hello", "▁world", "▁a"],
    "slow": ["<s>", "▁hello", "▁world", "▁", "a"],
}


@pytest.mark.parametrize("kind", WRITTEN)
def test_the_first_word_can_be_scored_and_stopped_at(kind: str) -> None:
    tokenizer = TOKENIZERS[kind]()
    ids = tokenizer.convert_tokens_to_ids(WRITTEN[kind])
    decoder = Decoder(architectures.chain(ids, len(tokenizer)), tokenizer)
    prompt = WRITTEN[kind][1][1:]
    out = decoder.generate(prompt, max_new_tokens=len(ids) - 2)[0]
    assert out.token_ids == ids[2:]
    assert out.text.startswith(" world ")
    (score,) = decoder.score([prompt], [out.text])
    assert score.token_ids == out.token_ids
    assert score.logprobs == pytest.approx(out.logprobs)
    stopped = decoder.generate(prompt, stop=" world", max_new_tokens=3)[0]
    # What a slow tokenizer writes is certain one token later.
    assert stopped.token_ids == (ids[2:4] if kind == "slow" else ids[2:3])
    assert (stopped.text, stopped.finish_reason) == ("", "stop")
    assert [piece.text for piece in decoder.stream(prompt, stop=" world", max_new_tokens=3)] == [""]

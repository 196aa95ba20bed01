"""What does not fit together is refused: widths, contexts, memory, missing names; what was finished is kept."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertGenerationConfig, BertGenerationDecoder

import architectures
import descant.decoder
import descant.models.cache
from checkpoints import sentencepiece_tokenizer, write_pair
from descant import (
    Contrastive,
    Decoder,
    DecodingError,
    Likelihood,
    LoadError,
    LogitBias,
    OutOfMemoryError,
    PromptError,
    SettingsError,
    Window,
)

MODEL = architectures.build("qwen2")


def test_ids_that_only_one_of_the_pair_has_are_refused_where_both_read() -> None:
    wide = architectures.build("qwen2", vocab_size=104)
    for amateur in (MODEL, Window(MODEL, 3)):
        decoder = Decoder(wide, amateur=amateur)
        with pytest.raises(PromptError, match="vocabulary of 97"):
            decoder.generate([[3, 100]])
        with pytest.raises(PromptError, match="vocabulary of 97"):
            decoder.score([[3]], [[100]])
        assert decoder.generate([[3, 100]], Likelihood(), max_new_tokens=1)


def test_a_window_wider_than_its_models_context() -> None:
    small = architectures.build("llama", max_position_embeddings=16)
    with pytest.raises(SettingsError, match="context of 16"):
        Decoder(MODEL, amateur=Window(small, 17))


def test_encoders_with_a_head_are_refused() -> None:
    config = BertGenerationConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8
    )
    config.is_decoder = False
    with pytest.raises(LoadError, match="not a causal language model"):
        Decoder(BertGenerationDecoder(config).eval())


def test_a_wrong_amateur_fails_before_any_weights_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expert, _ = write_pair(tmp_path)

    def never(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("weights were read")

    monkeypatch.setattr(descant.decoder, "load_model", never)
    with pytest.raises(LoadError):
        Decoder.from_pretrained(expert, amateur=tmp_path / "nothing")


def test_the_caches_of_a_pair_must_fit_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """768 bytes a token in each (3 layers × 2 heads × 8 numbers × 2 × 8 bytes), and room for 110 tokens."""
    monkeypatch.setattr(descant.models.cache, "free_memory", lambda device: 768 * 110)
    decoder = Decoder(MODEL, amateur=architectures.build("qwen2", seed=1))
    assert decoder.generate([[3] * 50], Likelihood(), max_new_tokens=50)
    with pytest.raises(OutOfMemoryError, match="GiB are free"):
        decoder.generate([[3] * 50], Contrastive(selective=False), max_new_tokens=50)


def test_a_failing_row_leaves_the_finished_ones_in_the_error() -> None:
    """Row 2 may not say anything; the others are done by the time it joins."""

    def forbid(input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return torch.full_like(scores, -torch.inf) if input_ids[0, 0] == 9 else scores

    from transformers import LogitsProcessor

    class Forbid(LogitsProcessor):
        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            return forbid(input_ids, scores)

    decoder = Decoder(MODEL)
    prompts = [[3], [4], [9]]
    with pytest.raises(DecodingError, match="row 2") as caught:
        decoder.generate(prompts, processors=[Forbid()], max_new_tokens=4, batch_size=2)
    expected = decoder.generate(prompts[:2], max_new_tokens=4)
    assert {index: out.token_ids for index, out in caught.value.outputs.items()} == {
        index: out.token_ids for index, out in enumerate(expected)
    }


def test_a_stop_string_that_becomes_certain_at_the_length_limit_is_a_stop() -> None:
    """Byte-fallback tokenizers hold a newline back until the next token is known."""
    tokenizer = sentencepiece_tokenizer()
    newline = tokenizer.convert_tokens_to_ids("<0x0A>")
    word = tokenizer.convert_tokens_to_ids("▁world")
    model = architectures.build("llama", vocab_size=len(tokenizer))
    decoder = Decoder(model, tokenizer)
    first = decoder.generate([[word]], processors=[LogitBias({newline: 1e4})], max_new_tokens=1, stop="\n")[0]
    assert (first.text, first.finish_reason, first.token_ids) == ("", "stop", [newline])


def test_token_ids_stream_without_a_tokenizer() -> None:
    pieces = list(Decoder(MODEL).stream([[3, 4]], max_new_tokens=5))
    assert [len(piece.token_ids) for piece in pieces] == [1] * 5
    assert pieces[-1].output is not None
    assert [token for piece in pieces for token in piece.token_ids] == pieces[-1].output.token_ids


def test_a_prompt_may_fill_the_context_where_nothing_is_added() -> None:
    assert Decoder(MODEL).generate([[3] * 128], max_new_tokens=0)[0].token_ids == []
    with pytest.raises(PromptError, match="longer than the context"):
        Decoder(MODEL).generate([[3] * 129], max_new_tokens=0)


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize("expert", ["gpt2", None])
def test_a_name_is_no_model(expert: Any) -> None:
    with pytest.raises(SettingsError, match="from_pretrained"):
        Decoder(expert)


@pytest.mark.usefixtures("unchecked_types")
def test_settings_reach_their_checks_through_generate() -> None:
    decoder = Decoder(MODEL)
    assert decoder.generate([[3]], processors=None, stop=None, max_new_tokens=1)[0].method["processors"] == []
    for settings in ({"processors": 5}, {"scoring": Contrastive}, {"max_new_tokens": "5"}, {"seed": "abc"}):
        with pytest.raises(SettingsError):
            decoder.generate([[3]], **settings)
    with pytest.raises(PromptError, match="input_ids"):
        decoder.generate({"input_ids": [[3]]})
    with pytest.raises(PromptError, match="prompt 1: "):
        decoder.generate([[3], [97]])

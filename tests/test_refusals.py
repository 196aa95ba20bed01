"""Bad input: each is refused at once, with cause and remedy, and costs nothing that was done."""

from typing import Any

import pytest
import torch

import architectures
import descant.models.cache
from checkpoints import qwen_tokenizer, sentencepiece_tokenizer
from descant import (
    BadWords,
    Contrastive,
    Decoder,
    DecodingError,
    EarlyExit,
    LoadError,
    OutOfMemoryError,
    PromptError,
    Sample,
    SettingsError,
    VocabularyError,
    Window,
)

MODEL = architectures.build("qwen2")
DECODER = Decoder(MODEL)


@pytest.mark.parametrize(
    ("prompts", "settings", "error", "message"),
    [
        ([[]], {}, PromptError, "no tokens"),
        ([[3] * 128], {}, PromptError, "longer than the context"),
        ([[3, 97]], {}, PromptError, "vocabulary of 97"),
        ([[-1]], {}, PromptError, "vocabulary of 97"),
        ([3, 4], {}, PromptError, "list of them"),
        ([{"role": "user", "content": "x"}], {"chat": True}, PromptError, "list of them"),
        ([[1.5]], {}, PromptError, "integer token ids"),
        ([["a"]], {}, PromptError, "integer token ids"),
        ([None], {}, PromptError, "neither text nor"),
        (None, {}, PromptError, "neither text nor"),
        ("text", {}, PromptError, "needs a tokenizer"),
        ([[3]], {"stop": "x"}, PromptError, "needs a tokenizer"),
        ([[3]], {"max_new_tokens": -1}, SettingsError, "max_new_tokens is -1"),
        ([[3]], {"batch_size": 0}, SettingsError, "batch_size is 0"),
        ([[3]], {"top_logprobs": -2}, SettingsError, "top_logprobs is -2"),
        ([[3]], {"scoring": Contrastive()}, SettingsError, "needs an amateur"),
        ([[3]], {"system": "x"}, SettingsError, "chat=True"),
        ([[3]], {"chat": True}, SettingsError, "texts, not token ids"),
        ([[3]], {"processors": ["top-k"]}, SettingsError, "processor"),
        ([[3]], {"strategy": "greedy"}, SettingsError, "not a strategy"),
        ([[3]] * 3, {"strategy": Sample(rng="transformers"), "batch_size": 2}, SettingsError, "raise it"),
    ],
)
@pytest.mark.usefixtures("unchecked_types")
def test_unusable_calls(prompts: Any, settings: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        DECODER.generate(prompts, **settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("layer", [0, 3, 7, -1])
def test_an_unknown_layer_is_named_with_the_known_ones(layer: int) -> None:
    with pytest.raises(SettingsError, match="choose 1 to 2"):
        Decoder(MODEL, amateur=EarlyExit(layer))


def test_a_window_of_nothing() -> None:
    with pytest.raises(SettingsError, match="at least 1"):
        Window(MODEL, 0)


@pytest.mark.usefixtures("unchecked_types")
def test_something_else_is_no_amateur() -> None:
    with pytest.raises(SettingsError, match="not an amateur"):
        Decoder(MODEL, amateur="amateur")  # type: ignore[arg-type]


def test_an_encoder_is_no_language_model() -> None:
    from transformers import BertConfig, BertLMHeadModel

    config = BertConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    with pytest.raises(LoadError, match="not a causal language model"):
        Decoder(BertLMHeadModel(config).eval())


def test_different_tokenizers_are_refused() -> None:
    tokenizer, other = qwen_tokenizer(), sentencepiece_tokenizer()
    expert = architectures.build("qwen2", vocab_size=416)
    with pytest.raises(VocabularyError):
        Decoder(expert, tokenizer, architectures.build("qwen2", vocab_size=416), amateur_tokenizer=other)
    with pytest.raises(VocabularyError, match="97 wide"):
        Decoder(expert, tokenizer, MODEL)


@pytest.mark.parametrize("broken", ["expert", "amateur"])
@pytest.mark.parametrize("selective", [True, False])
def test_logits_that_are_not_numbers_name_step_and_source(broken: str, selective: bool) -> None:
    """The damage strikes at the second step: the first must have gone well."""
    expert, amateur = architectures.build("qwen2", seed=1), architectures.build("qwen2", seed=2)
    victim = {"expert": expert, "amateur": amateur}[broken]
    decoder = Decoder(expert, amateur=amateur)
    settings: dict[str, Any] = {"scoring": Contrastive(alpha=1e-9, selective=selective)}
    first = decoder.generate([[3, 4]], max_new_tokens=1, **settings)[0].token_ids[0]
    victim.model.embed_tokens.weight.data[first] = torch.nan
    with pytest.raises(DecodingError, match=rf"logits of the {broken} .* step 1 of row 0"):
        decoder.generate([[3, 4]], max_new_tokens=8, **settings)


def test_a_vocabulary_banned_whole_is_refused() -> None:
    ban = BadWords([[token] for token in range(97)])
    with pytest.raises(DecodingError, match="forbid every token at step 0 of row 0"):
        DECODER.generate([[3]], processors=[ban])


def test_memory_that_cannot_fit_is_refused_with_the_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    """3 layers × 2 heads × 8 numbers × 2 (keys, values) × 8 bytes = 768 bytes a token."""
    monkeypatch.setattr(descant.models.cache, "free_memory", lambda device: 768 * 100)
    assert DECODER.generate([[3] * 50], max_new_tokens=50)[0].finish_reason == "length"
    with pytest.raises(OutOfMemoryError, match=r"1 rows of 101 tokens needs .* GiB"):
        DECODER.generate([[3] * 50], max_new_tokens=51)


def test_a_failed_allocation_is_an_error_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")

    model = architectures.build("qwen2")
    monkeypatch.setattr(model.model, "forward", fail)
    with pytest.raises(OutOfMemoryError, match="decode fewer rows"):
        Decoder(model).generate([[3]])


def test_scoring_needs_as_many_ends_as_prompts() -> None:
    with pytest.raises(PromptError, match="as many of each"):
        DECODER.score([[3]], [[4], [5]])
    with pytest.raises(PromptError, match="no tokens"):
        DECODER.score([[3]], [[]])
    with pytest.raises(PromptError, match="longer than the context"):
        DECODER.score([[3] * 100], [[4] * 29])

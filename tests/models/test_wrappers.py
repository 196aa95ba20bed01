"""Models for images or sound, given text: the verified ones in ragged batches, others row by row or not at all."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    MllamaConfig,
    MllamaForConditionalGeneration,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
)

import architectures
import wrappers
from descant import Decoder, EarlyExit, LoadError, Speculative
from descant.models import inspect_model, open_model
from descant.models.architecture import WRAPPERS
from descant.models.ragged import RaggedModel
from descant.sources.early_exit import make_exit
from naive_rows import NEW_TOKENS, decode_with_junk, prompts_of, reference

PROMPTS = prompts_of((5, 9, 3, 14))


@pytest.mark.parametrize("kind", wrappers.KNOWN)
@torch.inference_mode()
def test_verified_ones_decode_as_generate_does(kind: str) -> None:
    model = wrappers.build(kind)
    seen = inspect_model(model)
    assert seen.cache == "ragged", seen.reason
    expected = [reference(model, prompt)[-NEW_TOKENS:] for prompt in PROMPTS]
    assert len({token for row in expected for token in row}) >= 4, "the reference repeats itself: nothing is tested"
    assert decode_with_junk(open_model(seen), PROMPTS, roll_back=True) == expected


def test_what_is_called_verified_is_tested_here() -> None:
    assert set(wrappers.KNOWN) >= WRAPPERS - {"omniasr", "moss_transcribe_diarize"}, (
        "newer than the oldest transformers"
    )


def test_layers_are_those_of_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the model for images has as many."""
    monkeypatch.setitem(wrappers._SMALL, "num_hidden_layers", 3)
    model: Any = wrappers.build("llava")
    assert model.config.vision_config.num_hidden_layers == model.config.text_config.num_hidden_layers == 3
    early = make_exit(inspect_model(model), 1, norm=True)
    opened = open_model(inspect_model(model))
    assert isinstance(opened, RaggedModel)
    opened.add_rows(1)
    with torch.inference_mode():
        _, logits = opened.run([PROMPTS[0]], keep=1, first_row=0, exits=(early,))
        states = model(input_ids=torch.tensor([PROMPTS[0]]), output_hidden_states=True).hidden_states
        expected = model.lm_head(model.get_decoder().norm(states[1][:, -1:]))
    torch.testing.assert_close(logits, expected)
    decoder = Decoder(model)
    plain = decoder.generate(PROMPTS, max_new_tokens=NEW_TOKENS)
    drafted = decoder.generate(PROMPTS, max_new_tokens=NEW_TOKENS, strategy=Speculative(draft=EarlyExit(1)))
    assert [out.token_ids for out in drafted] == [out.token_ids for out in plain]


def mllama() -> Any:
    text = {"cross_attention_layers": [1], "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}
    sizes = {
        **architectures._BASE,
        "num_key_value_heads": 2,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": None,
    }
    vision = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_global_layers": 1,
        "attention_heads": 4,
        "intermediate_size": 48,
        "vision_output_dim": 64,
        "image_size": 16,
        "patch_size": 8,
        "intermediate_layers_indices": [0],
    }
    config = MllamaConfig(text_config={**sizes, **text}, vision_config=vision, image_token_index=96)
    return architectures.sharpen(MllamaForConditionalGeneration(config).double())


def around_another_text_model() -> Any:
    """A verified wrapper around a model that is not."""
    model: Any = wrappers.build("llava")
    text = AutoConfig.for_model("gpt_neo", **{**architectures._BASE, **architectures.OWN_CACHE["gpt_neo"]})
    model.config.text_config = text
    return architectures.sharpen(type(model)(model.config).double())


def unverified() -> Any:
    """A wrapper that is not verified around a model that is."""
    model = wrappers.build("llava")
    model.config.model_type = "llava_of_tomorrow"
    return model


@pytest.mark.parametrize("make", [mllama, around_another_text_model, unverified])
@torch.inference_mode()
def test_others_run_row_by_row(make: Callable[[], Any]) -> None:
    model = make()
    seen = inspect_model(model)
    assert seen.cache == "transformers"
    assert "has not been verified" in seen.reason
    expected = [reference(model, prompt)[-NEW_TOKENS:] for prompt in PROMPTS]
    assert len({token for row in expected for token in row}) >= 4, "the reference repeats itself: nothing is tested"
    assert decode_with_junk(open_model(seen), PROMPTS, roll_back=False) == expected


@pytest.mark.parametrize("kind", ["gemma", "gemma2"])
def test_paligemma_is_refused(kind: str) -> None:
    """Its prompts are read in both directions: a text that is scored would see what it is to predict."""
    text = {**architectures._BASE, **architectures.RAGGED[kind], "model_type": kind, "pad_token_id": 0}
    vision = {name: wrappers._SMALL.get(name) for name in ("hidden_size", "intermediate_size", "num_attention_heads")}
    vision |= {"model_type": "siglip_vision_model", "num_hidden_layers": 1, "image_size": 16, "patch_size": 8}
    config = PaliGemmaConfig(text_config=text, vision_config=vision, projection_dim=32, image_token_index=96)
    with pytest.raises(LoadError, match=r"not a causal language model \(its tokens see"):
        Decoder(PaliGemmaForConditionalGeneration(config))


def test_a_text_model_that_reads_in_both_directions_is_refused() -> None:
    with pytest.raises(LoadError, match="its tokens see those after them"):
        Decoder(architectures.build("gemma3_text", use_bidirectional_attention=True))

"""What is no causal language model in memory is refused when it is given, in one line with the remedy."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch
from torch import nn
from transformers import (
    BertConfig,
    Blip2Config,
    Blip2ForConditionalGeneration,
    EncoderDecoderConfig,
    EncoderDecoderModel,
    GPT2Config,
    Kosmos2Config,
    Kosmos2ForConditionalGeneration,
    OPTConfig,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTConfig,
)

import architectures
from descant import (
    Decoder,
    DescantError,
    LoadError,
    OtherPrompt,
    OtherTokenizer,
    SettingsError,
    Speculative,
    UnsupportedModelError,
    Window,
)
from descant.integrations.logits_processor import ContrastiveLogitsProcessor

MODEL = architectures.build("qwen2")
SIZES: dict[str, Any] = {
    "vocab_size": architectures.VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}
VISION: dict[str, Any] = {**SIZES, "image_size": 16, "patch_size": 8}


def encoder_decoder() -> Any:
    decoder = BertConfig(**SIZES, is_decoder=True, add_cross_attention=True)
    return EncoderDecoderModel(EncoderDecoderConfig.from_encoder_decoder_configs(BertConfig(**SIZES), decoder))


def image_to_text() -> Any:
    text = GPT2Config(vocab_size=32, n_embd=32, n_layer=1, n_head=4, add_cross_attention=True, eos_token_id=1)
    return VisionEncoderDecoderModel(VisionEncoderDecoderConfig.from_encoder_decoder_configs(ViTConfig(**VISION), text))


def kosmos() -> Any:
    text = {"vocab_size": 32, "embed_dim": 32, "layers": 1, "ffn_dim": 48, "attention_heads": 4}
    return Kosmos2ForConditionalGeneration(Kosmos2Config(text_config=text, vision_config=VISION, latent_query_num=4))


def blip() -> Any:
    text = OPTConfig(**SIZES, ffn_dim=48, word_embed_proj_dim=32, eos_token_id=2)
    reader = {**SIZES, "encoder_hidden_size": 32}
    return Blip2ForConditionalGeneration(
        Blip2Config(text_config=text.to_dict(), vision_config=VISION, qformer_config=reader, num_query_tokens=4)
    )


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (encoder_decoder, LoadError, r"EncoderDecoderModel is not a causal language model \(it has an encoder\); load"),
        (image_to_text, LoadError, r"VisionEncoderDecoderModel is not a causal language model \(it has an encoder\)"),
        (kosmos, UnsupportedModelError, "Kosmos2ForConditionalGeneration does not read text alone .*pixel_values"),
        (blip, UnsupportedModelError, "Blip2ForConditionalGeneration does not read text alone .*pixel_values"),
    ],
)
def test_what_does_not_read_text_alone(make: Callable[[], Any], error: type[DescantError], message: str) -> None:
    model = make()
    for give in (lambda: Decoder(model), lambda: Decoder(MODEL, amateur=model)):
        with pytest.raises(error, match=message) as caught:
            give()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("place", ["cpu", "disk"])
def test_weights_that_are_elsewhere(place: str, tmp_path: Path) -> None:
    model = architectures.build("qwen2")
    if place == "cpu":
        accelerate.cpu_offload(model, torch.device("cpu"))
    else:
        accelerate.disk_offload(model, tmp_path, torch.device("cpu"))
    message = r"weights that are not in memory .*; load it whole on one device"
    amateurs: list[Any] = [model, Window(model, 3), OtherPrompt("x", model)]
    for give in (lambda: Decoder(model), *(partial(Decoder, MODEL, amateur=amateur) for amateur in amateurs)):
        with pytest.raises(UnsupportedModelError, match=message):
            give()


class Adapter(nn.Module):
    """As PEFT's: a model with adapters inside its layers."""

    def __init__(self, model: nn.Module, *, virtual: bool = False) -> None:
        super().__init__()
        self.base_model = model
        if not virtual:
            self.merge_and_unload = lambda: model

    @property
    def peft_config(self) -> dict[str, Any]:
        return {}


WRAPPED = {
    "OptimizedModule": (torch.compile(MODEL, backend="eager"), r"it wraps a Qwen2ForCausalLM; give model\._orig_mod"),
    "DataParallel": (nn.DataParallel(MODEL), r"it wraps a Qwen2ForCausalLM; give model\.module"),
    "Adapter": (Adapter(MODEL), r"give model\.get_base_model\(\), .* or model\.merge_and_unload\(\)"),
    "virtual tokens": (Adapter(MODEL, virtual=True), "its virtual tokens are no part of a model; give"),
    "no model inside": (nn.Linear(2, 2), "give a"),
}
PLACES: dict[str, Callable[[Any], object]] = {
    "expert": Decoder,
    "amateur": lambda model: Decoder(MODEL, amateur=model),
    "window": lambda model: Window(model, 3),
    "other tokenizer": OtherTokenizer,
    "other prompt": lambda model: OtherPrompt("x", model),
    "draft": lambda model: Decoder(MODEL).generate([[3]], strategy=Speculative(draft=model)),
    "processor": ContrastiveLogitsProcessor,
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", WRAPPED)
@pytest.mark.usefixtures("unchecked_types")
def test_wrapped_models(place: str, name: str) -> None:
    wrapped, message = WRAPPED[name]
    if (place, name) == ("expert", "no model inside"):
        message = "for a name use"
    with pytest.raises(SettingsError, match=f"{type(wrapped).__name__}.*; {message}") as caught:
        PLACES[place](wrapped)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250
    assert "Qwen2Model" not in str(caught.value), "no layers are listed"


class LowRank(nn.Module):
    """As PEFT's LoRA layers: a linear layer, and a product of two thin matrices beside it."""

    def __init__(self, inner: nn.Linear) -> None:
        super().__init__()
        self.base_layer = inner
        self.thin = nn.Parameter(torch.randn(2, inner.in_features, dtype=torch.float64))
        self.tall = nn.Parameter(torch.randn(inner.out_features, 2, dtype=torch.float64))

    @property
    def weight(self) -> nn.Parameter:
        return self.base_layer.weight

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return self.base_layer(states) + states @ self.thin.T @ self.tall.T


def test_adapters_inside_the_layers_are_read() -> None:
    """As `get_base_model()` gives them; in the output head too, of which `weight` is not all."""
    model = architectures.build("qwen2")
    prompts = architectures.make_prompts(5, 9, 3)

    def generate() -> list[list[int]]:
        rows = (torch.tensor([prompt]) for prompt in prompts)
        outs = (model.generate(row, attention_mask=torch.ones_like(row), max_new_tokens=12) for row in rows)
        return [out[0, len(prompt) :].tolist() for out, prompt in zip(outs, prompts, strict=True)]

    without = generate()
    torch.manual_seed(0)
    for name in ("model.layers.1.self_attn.q_proj", "model.layers.2.mlp.down_proj", "lm_head"):
        model.set_submodule(name, LowRank(model.get_submodule(name)))
    expected = generate()
    assert expected != without
    for settings in ({}, {"strategy": Speculative(draft=MODEL)}):
        outs = Decoder(model).generate(prompts, max_new_tokens=12, **settings)
        assert [list(out.token_ids) for out in outs] == expected

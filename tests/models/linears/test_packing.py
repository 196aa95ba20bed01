"""Packed models compute what they computed before, and weights exist once."""

import copy
import weakref
from typing import Any

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from architectures import OWN_CACHE, RAGGED, build
from descant import Decoder
from descant.errors import UnsupportedModelError
from descant.models.linears.packing import PackedLinear, pack

IDS = torch.tensor([[5, 17, 3, 80, 41, 9, 22]])


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.inference_mode():
        return model(IDS, use_cache=False).logits.float()


@pytest.mark.parametrize("name", [*RAGGED, *OWN_CACHE])
def test_packed_logits_are_those_of_the_model(name: str) -> None:
    model = build(name).float()
    before = logits(model)
    report = pack(model, smallest=0)
    assert (report.layers > 0) == (name in RAGGED and name != "falcon"), report.left_alone
    torch.testing.assert_close(logits(model), before, rtol=1e-4, atol=1e-4 * float(before.abs().max()))


@pytest.mark.usefixtures("bfloat16_kernels")
@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt2", "olmo", "phi", "opt", "gemma2"])
def test_packed_logits_in_bfloat16_are_within_its_rounding(name: str) -> None:
    model = build(name).bfloat16()
    with_float = logits(copy.deepcopy(model).float())
    before = logits(model)
    rounding = (before - with_float).abs().max()
    report = pack(model, smallest=0)
    assert report.layers > 0
    assert (logits(model) - with_float).abs().max() <= 1.5 * rounding


@pytest.mark.parametrize("name", ["llama", "gpt2", "olmo"])
def test_a_packed_model_decodes_the_same_tokens(name: str) -> None:
    model = build(name).float()
    expected = model.generate(IDS, max_new_tokens=20, do_sample=False)[0, IDS.shape[1] :].tolist()
    pack(model, smallest=0)
    assert model.generate(IDS, max_new_tokens=20, do_sample=False)[0, IDS.shape[1] :].tolist() == expected
    assert Decoder(model).generate(IDS.tolist(), max_new_tokens=20)[0].token_ids == expected


def tied(name: str = "llama", **changes: Any) -> PreTrainedModel:
    model = build(name, tie_word_embeddings=True, **changes).bfloat16()
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    return model


@pytest.mark.usefixtures("bfloat16_kernels")
def test_a_tied_head_is_packed_beside_its_embeddings() -> None:
    model = tied()
    embeddings = model.get_input_embeddings()
    report = pack(model, smallest=0)
    head = model.get_output_embeddings()
    assert report.copied == embeddings.weight.nbytes
    assert isinstance(head, PackedLinear)
    assert model.get_input_embeddings() is embeddings
    assert head.weight is embeddings.weight
    states = torch.randn(3, head.in_features).bfloat16()
    torch.testing.assert_close(head(states), torch.nn.functional.linear(states, embeddings.weight))


def test_a_tied_head_in_float32_keeps_the_embeddings_as_they_are() -> None:
    model = build("llama", tie_word_embeddings=True).float()
    report = pack(model, smallest=0)
    assert report.copied == 0
    assert "tied" in report.left_alone["lm_head"]
    assert type(model.get_output_embeddings()) is nn.Linear


@pytest.mark.usefixtures("bfloat16_kernels")
def test_no_original_weight_is_kept() -> None:
    model = build("llama", tie_word_embeddings=False).bfloat16()
    originals = [weakref.ref(module.weight) for module in model.modules() if isinstance(module, nn.Linear)]
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    size = sum(weight().nbytes for weight in originals)
    report = pack(model, smallest=0)
    assert all(weight() is None for weight in originals)
    assert (report.layers, report.nbytes, report.left_alone) == (len(names), size, {})


@pytest.mark.usefixtures("bfloat16_kernels")
def test_at_most_one_weight_exists_in_both_forms(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("llama", tie_word_embeddings=False).bfloat16()
    originals = [weakref.ref(module.weight) for module in model.modules() if isinstance(module, nn.Linear)]
    alive: list[int] = []
    whole = PackedLinear.__init__

    def counted(self: PackedLinear, layer: Any) -> None:
        alive.append(sum(weight() is not None for weight in originals))
        whole(self, layer)

    monkeypatch.setattr(PackedLinear, "__init__", counted)
    pack(model, smallest=0)
    assert alive == list(range(len(originals), 0, -1))


@pytest.mark.usefixtures("bfloat16_kernels")
def test_a_packed_model_shows_what_it_is() -> None:
    model = tied()
    parameters = model.num_parameters()
    pack(model, smallest=0)
    head = model.get_output_embeddings()
    assert (model.dtype, model.device.type, model.num_parameters()) == (torch.bfloat16, "cpu", parameters)
    assert head.weight.shape == (97, 32)
    assert model.model.layers[0].mlp.up_proj.weight.isnan().all()
    assert "out_features=97" in repr(head)
    assert model.to("cpu").eval() is model


@pytest.mark.usefixtures("bfloat16_kernels")
def test_what_a_packed_model_cannot_do_is_refused() -> None:
    model = tied()
    pack(model, smallest=0)
    with pytest.raises(UnsupportedModelError, match="load it anew"):
        model.float()
    with pytest.raises(UnsupportedModelError, match="saved"):
        model.state_dict()
    state = build("llama", tie_word_embeddings=True).bfloat16().state_dict()
    with pytest.raises(UnsupportedModelError, match="loaded"):
        model.load_state_dict(state)


def test_a_model_elsewhere_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="device='cpu'"):
        pack(build("llama").to("meta"))


class Scaled(nn.Linear):
    pass


def test_layers_that_are_more_than_a_product_are_left_alone() -> None:
    model = build("llama").float()
    attention = model.model.layers[0].self_attn
    attention.q_proj = Scaled(32, 32)
    attention.k_proj.register_forward_hook(lambda *_: None)
    model.model.layers[1].self_attn.o_proj = model.model.layers[0].self_attn.o_proj
    model.model.layers[2].self_attn.q_proj.weight = model.model.layers[1].self_attn.q_proj.weight
    report = pack(model, smallest=0)
    expected = {"0.self_attn.q_proj", "0.self_attn.k_proj", "0.self_attn.o_proj"}
    expected |= {"1.self_attn.q_proj", "2.self_attn.q_proj"}
    assert {name.removeprefix("model.layers.") for name in report.left_alone} == expected
    assert type(attention.q_proj) is Scaled


def test_what_does_not_gain_is_left_alone() -> None:
    model = build("llama").float()
    report = pack(model)
    assert report.layers == 0
    assert set(report.left_alone.values()) == {"it is too small to gain"}
    report = pack(build("llama"), smallest=0)
    assert set(report.left_alone.values()) == {"torch.float64 has no packed kernel"}

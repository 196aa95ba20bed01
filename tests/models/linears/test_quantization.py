"""Quantised models compute with the rounded weights, and rounding is to the nearest level."""

import copy
import weakref
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from architectures import build
from checkpoints import write_pair
from descant import Decoder, EarlyExit
from descant.errors import SettingsError, UnsupportedModelError
from descant.models.linears.packing import pack
from descant.models.linears.quantization import Int4Linear, Int8Linear, quantize, round_int4, round_int8

IDS = torch.tensor([[5, 17, 3, 80, 41, 9, 22]])
DTYPES = (torch.float32, torch.bfloat16)
SHAPES = {"hidden_size": 64, "intermediate_size": 96}


def weights(dtype: torch.dtype, rows: int = 48, columns: int = 128) -> torch.Tensor:
    noise = torch.randn(rows, columns, generator=torch.Generator().manual_seed(0))
    noise[3] = 0.0
    noise[4] = 5.0
    return noise.to(dtype)


def naive_int8(weight: torch.Tensor) -> torch.Tensor:
    """Round each number to the nearest of its row's 255 levels, one by one."""
    rows = []
    for row in weight.double():
        scale = float((row.abs().max() / 127).to(weight.dtype)) or 1.0
        rows.append([scale * max(-127, min(127, round(float(x) / scale))) for x in row])
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("dtype", DTYPES)
def test_int8_is_the_nearest_level_of_the_row(dtype: torch.dtype) -> None:
    weight = weights(dtype)
    levels, scales = round_int8(weight)
    torch.testing.assert_close(levels.double() * scales.double()[:, None], naive_int8(weight), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("group", [32, 64])
def test_int4_errs_by_half_a_level_of_the_group(dtype: torch.dtype, group: int) -> None:
    weight = weights(dtype)
    levels, scales, offsets = round_int4(weight, group)
    assert int(levels.min()) >= 0
    assert int(levels.max()) <= 15
    near = (levels.double() - 8) * scales.double().repeat_interleave(group, 1)
    near += offsets.double().repeat_interleave(group, 1)
    for row, near_row in zip(weight.double().unflatten(1, (-1, group)), near.unflatten(1, (-1, group)), strict=True):
        for numbers, nears in zip(row, near_row, strict=True):
            level = float(numbers.max() - numbers.min()) / 15
            # Scale and offset are themselves rounded to the dtype.
            slack = 16 * torch.finfo(dtype).eps * float(numbers.abs().max())
            assert float((numbers - nears).abs().max()) <= level / 2 + slack


@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_layers_multiply_by_the_rounded_weights(scheme: str) -> None:
    model = build("qwen2", **SHAPES).bfloat16()
    reference = copy.deepcopy(model).double()
    for module in reference.modules():
        if not isinstance(module, nn.Linear):
            continue
        weight = module.weight.data.bfloat16()
        head = module is reference.get_output_embeddings()
        group = 64 if module.in_features % 64 == 0 else 32
        if scheme == "int8" or head:
            levels, scales = round_int8(weight)
            module.weight.data = levels.double() * scales.double()[:, None]
        else:
            levels, scales, offsets = round_int4(weight, group)
            spread = [part.double().repeat_interleave(group, 1) for part in (scales, offsets)]
            module.weight.data = (levels.double() - 8) * spread[0] + spread[1]
    report = quantize(model, scheme)
    with torch.inference_mode():
        expected, found = reference(IDS).logits, model(IDS).logits.double()
    assert float((found - expected).abs().max()) <= 0.06 * float(expected.abs().max())  # activations are bfloat16
    assert report.layers == {"int8": 22, "int4": 0} if scheme == "int8" else {"int8": 1, "int4": 21}
    assert report.left_alone == {}


def test_what_no_group_divides_takes_int8() -> None:
    model = build("llama", hidden_size=48, intermediate_size=64).bfloat16()
    quantize(model, "int4")
    layer = model.model.layers[0]
    assert type(layer.self_attn.q_proj) is Int8Linear
    assert type(layer.mlp.down_proj) is Int4Linear


def test_weights_shrink_and_originals_are_freed() -> None:
    model = build("llama", tie_word_embeddings=False, **SHAPES).bfloat16()
    originals = [weakref.ref(module.weight) for module in model.modules() if isinstance(module, nn.Linear)]
    report = quantize(model, "int8")
    assert all(weight() is None for weight in originals)
    assert report.nbytes < 0.55 * report.nbytes_before


def test_tied_embeddings_keep_the_original() -> None:
    model = build("llama", tie_word_embeddings=True, **SHAPES).bfloat16()
    rows = model.get_input_embeddings().weight
    quantize(model, "int4")
    assert type(model.get_output_embeddings()) is Int8Linear
    assert model.get_input_embeddings().weight is rows
    assert not rows.isnan().any()


def test_a_quantised_model_generates_and_packs_what_is_left() -> None:
    model = build("llama", **SHAPES).bfloat16()
    quantize(model, "int8")
    assert pack(model, smallest=0).layers == 0
    assert model.generate(IDS, max_new_tokens=4, do_sample=False).shape == (1, 11)


@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_one_layer_multiplies_by_the_rounded_weights_and_adds_its_bias(scheme: str) -> None:
    model = build("phi", **SHAPES).bfloat16()
    layer = copy.deepcopy(model.model.layers[0].mlp.fc1)
    quantize(model, scheme)
    states = torch.randn(2, 3, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    if scheme == "int8":
        levels, scales = round_int8(layer.weight.data)
        weight = levels.double() * scales.double()[:, None]
    else:
        levels, scales, offsets = round_int4(layer.weight.data, 64)
        weight = (levels.double() - 8) * scales.double() + offsets.double()
    expected = F.linear(states.double(), weight, layer.bias.data.double())
    found = model.model.layers[0].mlp.fc1(states).double()
    # The product is rounded, and its sum with the bias again.
    torch.testing.assert_close(found, expected, rtol=0.008, atol=0.008 * float(expected.abs().max()))


@pytest.mark.usefixtures("unchecked_types")
def test_a_scheme_that_does_not_exist_is_refused() -> None:
    with pytest.raises(SettingsError, match="int8"):
        quantize(build("llama"), "int3")


def test_refusals() -> None:
    with pytest.raises(UnsupportedModelError, match="device='cpu'"):
        quantize(build("llama").bfloat16().to("meta"), "int8")
    with pytest.raises(UnsupportedModelError, match="bfloat16"):
        quantize(build("llama").float(), "int8")


def test_a_decoder_loads_rounded_and_packed_models_and_says_so(tmp_path: Path) -> None:
    expert, amateur = write_pair(tmp_path)
    decoder = Decoder.from_pretrained(
        expert, amateur=amateur, dtype="bfloat16", device="cpu", quantization="int8", amateur_quantization="int4"
    )
    method = decoder.generate("Hello", max_new_tokens=3)[0].method
    assert method["expert"]["linear_layers"] == "int8"
    assert "int4" in method["amateur"]["linear_layers"]
    plain = Decoder.from_pretrained(expert, dtype="float32", device="cpu")
    assert plain.generate("Hello", max_new_tokens=3)[0].method["expert"]["linear_layers"] == "plain"
    with pytest.raises(SettingsError, match="amateur_quantization"):
        Decoder.from_pretrained(expert, amateur=EarlyExit(1), device="cpu", amateur_quantization="int8")

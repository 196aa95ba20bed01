"""Devices, number formats, end-of-sequence ids and context lengths."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    FalconConfig,
    Gemma3TextConfig,
    GPT2Config,
    MambaConfig,
    MptConfig,
    PreTrainedConfig,
    Qwen2Config,
    RwkvConfig,
)

from checkpoints import write_pair
from descant.errors import SettingsError
from descant.models.architecture import context_length
from descant.models.loading import PAIRS, eos_token_ids, load_tokenizer, resolve_device, resolve_dtype


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_pair(tmp_path_factory.mktemp("pair"))


def test_devices() -> None:
    assert resolve_device("cpu") == resolve_device(torch.device("cpu")) == torch.device("cpu")
    assert resolve_device("auto").type in ("cuda", "mps", "cpu")
    for device in ("gpu", "cuda:99", "meta", ""):
        with pytest.raises(SettingsError, match="use auto"):
            resolve_device(device)


def test_auto_device_prefers_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device() == resolve_device("mps") == torch.device("mps")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device() == torch.device("cuda")


def test_dtypes() -> None:
    assert resolve_dtype() == "auto"
    assert resolve_dtype("bfloat16") == resolve_dtype("bf16") == resolve_dtype(torch.bfloat16) == torch.bfloat16
    for dtype in ("int8", "double precision", torch.int64):
        with pytest.raises(SettingsError, match="unknown dtype"):
            resolve_dtype(dtype)


def model_like(config: PreTrainedConfig, **generation: object) -> Any:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    if generation:
        model.generation_config = transformers.GenerationConfig(**generation)
    return model


def test_eos_ids_come_from_the_first_source_that_has_them(pair: tuple[Path, Path]) -> None:
    tokenizer = load_tokenizer(pair[0])
    config = GPT2Config(n_layer=1, n_embd=8, n_head=1, vocab_size=32, eos_token_id=7, bos_token_id=None)
    model = model_like(config, eos_token_id=[5, 6, 5])
    assert eos_token_ids(model, tokenizer) == (5, 6)
    model.generation_config.eos_token_id = 9
    assert eos_token_ids(model, tokenizer) == (9,)
    model.generation_config.eos_token_id = None
    assert eos_token_ids(model, tokenizer) == (7,)
    model.config.eos_token_id = None
    assert eos_token_ids(model, tokenizer) == (tokenizer.eos_token_id,)
    assert eos_token_ids(model) == ()


def qwen(**rope: Any) -> Qwen2Config:
    sizes = {"vocab_size": 8, "hidden_size": 8, "num_attention_heads": 1, "num_key_value_heads": 1}
    rope = {"rope_theta": 10000.0, **rope}
    return Qwen2Config(**sizes, num_hidden_layers=1, max_position_embeddings=32, rope_parameters=rope)


# Their lengths are those after the scaling.
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 32.0,
    "original_max_position_embeddings": 8,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
}
GEMMA3 = {
    "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}


@pytest.mark.parametrize(
    ("config", "length"),
    [
        (GPT2Config(n_positions=64, n_layer=1), 64),
        (FalconConfig(max_position_embeddings=32, num_hidden_layers=1, alibi=False), 32),
        (FalconConfig(max_position_embeddings=32, num_hidden_layers=1, alibi=True), None),
        (BloomConfig(n_layer=1, hidden_size=8, n_head=1), None),
        (BloomConfig(n_layer=1, hidden_size=8, n_head=1, seq_length=16), None),
        (MptConfig(n_layers=1, d_model=8, n_heads=1, max_seq_len=16), 16),
        (qwen(rope_type="default"), 32),
        (qwen(rope_type="linear", factor=2.0), 64),
        (qwen(rope_type="dynamic", factor=2.0), 64),
        (qwen(rope_type="yarn", factor=4.0, original_max_position_embeddings=32), 128),
        (qwen(rope_type="yarn", factor=4.0, original_max_position_embeddings=8), 32),
        (qwen(rope_type="yarn", factor=2.0, original_max_position_embeddings=8), 32),
        (qwen(**LLAMA3), 32),
        (Gemma3TextConfig(max_position_embeddings=32, num_hidden_layers=1, rope_parameters=GEMMA3), 32),
        (MambaConfig(num_hidden_layers=1, hidden_size=8), None),
        (RwkvConfig(num_hidden_layers=1, hidden_size=8), None),
    ],
    ids=lambda value: getattr(value, "model_type", str(value)),
)
def test_context_length(config: PreTrainedConfig, length: int | None) -> None:
    assert context_length(model_like(config)) == length


def test_named_pairs_are_model_ids() -> None:
    assert PAIRS["qwen2.5"] == ("Qwen/Qwen2.5-3B-Instruct", "Qwen/Qwen2.5-Coder-0.5B-Instruct")

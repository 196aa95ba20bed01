"""Tiny random models of every architecture that decodes over the ragged cache, with sharp distributions."""

import copy
import itertools
import random
from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

VOCAB = 97
_BASE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 128,
}
_GQA: dict[str, Any] = {"num_key_value_heads": 2}
_HEAD: dict[str, Any] = {**_GQA, "head_dim": 8}
_GPT: dict[str, Any] = {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 128}
_MOE: dict[str, Any] = {**_GQA, "num_experts_per_tok": 2}

RAGGED: dict[str, dict[str, Any]] = {
    "gpt2": _GPT,
    "llama": _GQA,
    "qwen2": _GQA,
    "qwen2 windowed": {**_GQA, "use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1},
    "qwen3": _HEAD,
    "mistral": {**_GQA, "sliding_window": None},
    "mistral windowed": {**_GQA, "sliding_window": 6},
    "ministral": {**_HEAD, "sliding_window": 6},
    "gemma": {"num_key_value_heads": 1, "head_dim": 8},
    "gemma2": {**_HEAD, "sliding_window": 6},
    "gemma3_text": {**_HEAD, "sliding_window": 6, "num_hidden_layers": 6},
    "vaultgemma": {**_HEAD, "sliding_window": 6},
    "phi": {},
    "phi3": {**_GQA, "pad_token_id": 0},
    "phimoe": {**_MOE, "num_local_experts": 4},
    "gpt_neox": {},
    "gpt_neox_japanese": {},
    "gpt_bigcode": _GPT,
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "opt projected": {
        "ffn_dim": 48,
        "word_embed_proj_dim": 48,
    },
    "falcon": {"new_decoder_architecture": False},
    "gptj": {**_GPT, "rotary_dim": 4},
    "codegen": {**_GPT, "rotary_dim": 4},
    "stablelm": _GQA,
    "olmo": _GQA,
    "olmo2": _GQA,
    "olmo3": {**_GQA, "sliding_window": 6},
    "granite": {**_GQA, "logits_scaling": 3.0},
    "granitemoe": {**_MOE, "num_local_experts": 4},
    "granitemoeshared": {**_MOE, "num_local_experts": 4, "shared_intermediate_size": 16},
    "cohere": _GQA,
    "cohere2": {**_GQA, "sliding_window": 6, "num_hidden_layers": 4},
    "smollm3": {**_GQA, "pad_token_id": 0},
    "starcoder2": _GQA,
    "bloom": {"n_layer": 3, "n_head": 4},
    "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 3},
    "mixtral": {**_MOE, "num_local_experts": 4, "sliding_window": None},
    "qwen2_moe": {
        **_MOE,
        "num_experts": 4,
        "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 16,
    },
    "qwen3_moe": {**_MOE, "head_dim": 8, "num_experts": 4, "moe_intermediate_size": 16},
    "olmoe": {**_MOE, "num_experts": 4},
    "gpt_oss": {**_MOE, "head_dim": 8, "num_local_experts": 4, "sliding_window": 6},
    "exaone4": {**_HEAD, "sliding_window": 6, "num_hidden_layers": 4},
    "glm": {**_HEAD, "pad_token_id": 0},
    "glm4": {**_HEAD, "pad_token_id": 0},
    "glm4_moe": {
        **_MOE,
        "head_dim": 8,
        "n_routed_experts": 4,
        "n_group": 1,
        "topk_group": 1,
        "moe_intermediate_size": 16,
        "first_k_dense_replace": 1,
        "pad_token_id": 0,
    },
    "nemotron": _GQA,
    "persimmon": {},
    "helium": {**_HEAD, "pad_token_id": 0},
    "arcee": _GQA,
    "seed_oss": _HEAD,
    "ernie4_5": _HEAD,
    "ernie4_5_moe": {**_MOE, "head_dim": 8, "moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 16},
    "hunyuan_v1_dense": _HEAD,
    "hunyuan_v1_moe": {**_HEAD, "num_experts": 4, "moe_topk": 2},
    "bitnet": _GQA,
    "diffllama": _GQA,
    "dots1": {
        **_MOE,
        "n_routed_experts": 4,
        "n_group": 1,
        "topk_group": 1,
        "moe_intermediate_size": 16,
        "first_k_dense_replace": 1,
        "sliding_window": 6,
        "n_shared_experts": 1,
    },
    "jetmoe": {**_MOE, "num_local_experts": 4, "kv_channels": 8},
    "cwm": {**_HEAD, "sliding_window": 6},
    "nanochat": _HEAD,
    "xglm": {"d_model": 32, "num_layers": 3, "attention_heads": 4, "ffn_dim": 48},
}

OWN_CACHE: dict[str, dict[str, Any]] = {
    "mamba": {"state_size": 4},
    "mamba2": {"state_size": 4, "num_heads": 8, "head_dim": 8, "n_groups": 2, "expand": 2, "chunk_size": 8},
    "falcon_mamba": {"state_size": 4},
    "qwen3_next": {
        **_HEAD,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 16,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "num_hidden_layers": 4,
    },
    "recurrent_gemma": {"lru_width": 32, "attention_window_size": 8, "head_dim": 8, "num_key_value_heads": 1},
    "rwkv": {"attention_hidden_size": 32},
    "lfm2": {**_GQA, "layer_types": ["conv", "full_attention", "conv"]},
    "gpt_neo": {
        "num_layers": 2,
        "num_hidden_layers": 2,
        "num_heads": 4,
        "window_size": 6,
        "attention_types": [[["global", "local"], 1]],
    },
    "jamba": {
        **_GQA,
        "num_experts": 2,
        "mamba_d_state": 4,
        "mamba_dt_rank": 4,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "use_mamba_kernels": False,
    },
    "deepseek_v3": {
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "n_group": 1,
        "topk_group": 1,
        "first_k_dense_replace": 1,
        "moe_intermediate_size": 16,
        "q_lora_rank": 8,
        "kv_lora_rank": 8,
        "qk_rope_head_dim": 4,
        "qk_nope_head_dim": 4,
        "v_head_dim": 8,
        "num_key_value_heads": 4,
    },
}

FLOAT32_ONLY = frozenset(
    {
        "mixtral",
        "qwen3_moe",
        "qwen2_moe",
        "olmoe",
        "gpt_oss",
        "phimoe",
        "granitemoe",
        "granitemoeshared",
        "glm4_moe",
        "ernie4_5_moe",
        "hunyuan_v1_moe",
        "dots1",
        "dbrx",
        "jetmoe",
        "qwen3_next",
        "jamba",
        "deepseek_v3",
        "xglm",
    }
)
"""Mixtures of experts, whose grouped matrix product has no float64, and XGLM, whose mask arithmetic has not."""


def build(name: str, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """Build a tiny model; weights are drawn wide, so that greedy choices are far from ties and texts vary."""
    settings = {**_BASE, **{**RAGGED, **OWN_CACHE}[name], **changes}
    kind = name.split(maxsplit=1)[0]
    config = AutoConfig.for_model(kind, **settings)
    config.pad_token_id, config.bos_token_id, config.eos_token_id = 0, 1, None
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config)
    if name not in FLOAT32_ONLY:
        model = model.double()
    return sharpen(model, seed)


def sharpen(model: PreTrainedModel, seed: int = 0) -> PreTrainedModel:
    """Draw a model's weights wide, and let nothing end its texts. Mutates."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.dim() >= 2:
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float32)
            parameter.data += 0.3 * noise.to(parameter.dtype)
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model.eval()


def chain(tokens: Sequence[int], vocab_size: int) -> PreTrainedModel:
    """A model that writes what it is told: after each of these tokens, all distinct, the next one, all but surely."""
    assert len(set(tokens)) == len(tokens)
    width = -(-vocab_size // 8) * 8
    model = build("llama", vocab_size=vocab_size, hidden_size=width, num_hidden_layers=1)
    for name, parameter in model.named_parameters():
        if not name.endswith("norm.weight"):
            parameter.data.zero_()  # attention and feed-forward add nothing to the token's own vector
    model.get_input_embeddings().weight.data[:] = torch.eye(vocab_size, width)
    for token, following in itertools.pairwise(tokens):
        model.get_output_embeddings().weight.data[following, token] = 30 / width**0.5
    return model


def near(model: PreTrainedModel, noise: float, seed: int = 0) -> PreTrainedModel:
    """A model that mostly agrees with another: an earlier checkpoint of it, a tuned one, a good draft model."""
    other = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    for parameter in other.parameters():
        parameter.data += noise * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    return other


def make_prompts(*lengths: int, seed: int = 0, vocab: int = VOCAB) -> list[list[int]]:
    source = random.Random(seed)
    return [[source.randrange(2, vocab) for _ in range(length)] for length in lengths]

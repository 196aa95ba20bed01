"""Tiny random models for images or sound around a verified text model; what they read is text alone."""

from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForMultimodalLM, PreTrainedConfig, PreTrainedModel

import architectures
from descant.models.architecture import WRAPPERS

KNOWN = sorted(kind for kind in WRAPPERS if kind in CONFIG_MAPPING)
"""Those that the installed transformers has."""

_SMALL: dict[str, Any] = {
    "base_channels": 32,
    "channel_multiplier": [1],
    "conv_dim": [32] * 7,
    "d_model": 32,
    "decoder_layers": 1,
    "depth": 1,
    "downsample_hidden_size": 32,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "encoder_layers": 1,
    "feedforward_dim": 32,
    "head_dim": 8,
    "hidden_dim": 32,
    "hidden_size": 32,
    "image_size": 16,
    "image_token_embed_dim": 32,
    "intermediate_size": 48,
    "latent_channels": 32,
    "max_position_embeddings": 128,
    "mlp_dim": 48,
    "num_attention_heads": 4,
    "num_embeddings": 16,
    "num_heads": 4,
    "num_hidden_layers": 1,
    "num_key_value_heads": 4,
    "num_layers": 1,
    "num_mel_bins": 16,
    "out_hidden_size": 32,
    "output_channels": 32,
    "output_dim": 32,
    "patch_size": 8,
    "projection_dim": 32,
    "vocab_size": architectures.VOCAB,
    # of the wrappers themselves
    "alignment_intermediate_size": 32,
}


def build(kind: str, **changes: Any) -> PreTrainedModel:
    """Build a tiny model of a wrapper's kind, its text model as `architectures` has it."""
    config = CONFIG_MAPPING[kind]()
    text = config.get_text_config()
    _shrink(config)
    [place] = [name for name, part in vars(config).items() if part is text]
    settings = {**architectures._BASE, **architectures.RAGGED[text.model_type], **changes}
    setattr(config, place, AutoConfig.for_model(text.model_type, **settings))
    part = getattr(config, place)
    part.pad_token_id, part.bos_token_id, part.eos_token_id = 0, 1, None
    for name in ("image_token_id", "image_token_index", "video_token_id", "video_token_index", "audio_token_id"):
        if hasattr(config, name):
            setattr(config, name, architectures.VOCAB - 1)
    torch.manual_seed(0)
    return architectures.sharpen(AutoModelForMultimodalLM.from_config(config).double())


def _shrink(config: PreTrainedConfig) -> None:
    for name, value in list(vars(config).items()):
        if isinstance(value, PreTrainedConfig):
            _shrink(value)
        elif name in _SMALL and type(value) is type(_SMALL[name]):
            setattr(config, name, _SMALL[name])

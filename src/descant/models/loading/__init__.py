"""Checkpoints to models and tokenizers: what is loaded is complete, or refused in one line."""

from descant.models.loading.facts import PAIRS, eos_token_ids, resolve_device, resolve_dtype
from descant.models.loading.load import load_model, load_tokenizer

__all__ = [
    "PAIRS",
    "eos_token_ids",
    "load_model",
    "load_tokenizer",
    "resolve_device",
    "resolve_dtype",
]

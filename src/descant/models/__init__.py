"""Tokens to logits: the models, their caches, and the sources a method reads."""

from descant.models.architecture import Architecture, inspect_model
from descant.models.base import LanguageModel
from descant.models.huggingface import RaggedModel
from descant.models.transformers_cache import TransformersCacheModel

__all__ = ["Architecture", "LanguageModel", "inspect_model", "open_model"]


def open_model(architecture: Architecture) -> LanguageModel:
    """Return the model without rows, over the cache that serves its architecture."""
    return RaggedModel(architecture) if architecture.cache == "ragged" else TransformersCacheModel(architecture)

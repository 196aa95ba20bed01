"""Tokens to logits: the models, their caches, and the sources a method reads."""

from descant.models.architecture import Architecture, inspect_model
from descant.models.base import LanguageModel
from descant.models.huggingface import RaggedModel
from descant.models.runner import Runner, RunnerName
from descant.models.transformers_cache import TransformersCacheModel

__all__ = ["Architecture", "LanguageModel", "Runner", "RunnerName", "inspect_model", "open_model"]


def open_model(architecture: Architecture, runner: Runner | None = None) -> LanguageModel:
    """Return the model without rows, over the cache that serves its architecture.

    Parameters
    ----------
    runner
        How passes run, where the cache is descant's own. It outlives the model, so that what is compiled for one
        decode serves the next. Default: eagerly.
    """
    if architecture.cache == "ragged":
        return RaggedModel(architecture, runner)
    return TransformersCacheModel(architecture)

"""Tokens to logits: the models, their caches, and the sources a method reads."""

from pathlib import Path

from descant.models.architecture import Architecture, inspect_model
from descant.models.base import LanguageModel
from descant.models.passes.compiling import compile_bucket
from descant.models.passes.runner import Runner, RunnerName
from descant.models.ragged import RaggedModel
from descant.models.recurrent import TransformersCacheModel

__all__ = ["Architecture", "LanguageModel", "Runner", "RunnerName", "inspect_model", "open_model", "open_runner"]


def open_runner(architecture: Architecture, mode: RunnerName = "auto", folder: Path | None = None) -> Runner:
    """Return a runner that can compile; see `Runner`."""
    return Runner(architecture, mode, folder, compile_bucket)


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

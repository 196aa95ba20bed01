"""Models and what stands for them as plain data, for the record of what made a result."""

from typing import Any

from transformers import PreTrainedModel

from descant.describe import describe
from descant.models.linears.replacing import linear_forms
from descant.sources.settings import NGram, OtherPrompt, OtherTokenizer, Window


def describe_model(model: Any) -> Any:
    """Return a source's setting as something JSON can hold; of a model its name, dtype, device and linear layers,
    of an n-gram model how many texts it is fitted on."""
    if isinstance(model, PreTrainedModel):
        return {
            "name": model.config.name_or_path or type(model).__name__,
            "dtype": str(model.dtype).removeprefix("torch."),
            "dtype_reason": getattr(model, "dtype_reason", None),  # of what was loaded with "auto"
            "device": str(model.device),
            "linear_layers": linear_forms(model),
        }
    if isinstance(model, Window):
        return {"name": "Window", "model": describe_model(model.model), "tokens": model.tokens}
    if isinstance(model, OtherPrompt):
        reader = None if model.model is None else describe_model(model.model)
        return {"name": "OtherPrompt", "prompt": describe(model.prompt), "model": reader}
    if isinstance(model, OtherTokenizer):
        tokenizer = model.tokenizer
        return {
            "name": "OtherTokenizer",
            "model": describe_model(model.model),
            "tokenizer": None if tokenizer is None else tokenizer.name_or_path or type(tokenizer).__name__,
            "reopen": model.reopen,
            "tolerance": model.tolerance,
            "budget": model.budget,
        }
    if isinstance(model, NGram):
        return {"name": "NGram", "n": model.n, "texts": None if model.texts is None else len(model.texts)}
    return describe(model)

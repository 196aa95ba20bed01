"""The models that are timed. Random weights are fair for the cost of a step; only the bundled pair is trained."""

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from descant.demo import demo_paths

SHAPES = ("bundled expert", "gpt2", "Qwen2.5-0.5B")

_QWEN: dict[str, dict[str, int]] = {
    "Qwen2.5-0.5B": {
        "hidden_size": 896,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "intermediate_size": 4864,
    },
    "Qwen2.5-3B": {
        "hidden_size": 2048,
        "num_hidden_layers": 36,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "intermediate_size": 11008,
    },
}


def shape(name: str) -> PreTrainedModel:
    """Build a model of a named shape: the bundled expert with its weights, others with random ones.

    Qwen2.5-3B takes 6.2 GB.
    """
    if name == "bundled expert":
        return bundled()[0]
    torch.manual_seed(0)
    if name == "gpt2":
        config, dtype = AutoConfig.for_model("gpt2"), torch.float32
    else:
        general = {"vocab_size": 151936, "max_position_embeddings": 32768, "tie_word_embeddings": True}
        config, dtype = AutoConfig.for_model("qwen2", **general, **_QWEN[name]), torch.bfloat16
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    return endless(model)


def bundled(*, ends: bool = False) -> tuple[PreTrainedModel, PreTrainedModel, PreTrainedTokenizerBase]:
    """Load the bundled pair and its tokenizer; its texts end only if they are to."""
    expert, amateur = (AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval() for path in demo_paths())
    if not ends:
        expert, amateur = endless(expert), endless(amateur)
    return expert, amateur, AutoTokenizer.from_pretrained(demo_paths()[0])


def peaked(model: PreTrainedModel) -> PreTrainedModel:
    """Scale a final norm so that random weights give logits as spread as trained ones: a deviation of about 8."""
    model.model.norm.weight.data *= 8 / (0.02 * model.config.hidden_size**0.5)
    return model


def endless(model: PreTrainedModel) -> PreTrainedModel:
    """Let a model decode to the length limit, so that every case does the same work."""
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model

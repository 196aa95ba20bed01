"""Tokens of transformers' own DoLa, which versions from 5 on have not: run once with transformers 4.55.4.

    python -m pip install --no-deps --target OLD transformers==4.55.4 tokenizers==0.21.4 huggingface_hub==0.34.4
    PYTHONPATH=OLD python tests/golden/make_dola.py > tests/golden/dola.json

Models are built from configuration and seed, by the same statements as the test builds them; `checksum` tells whether
they have come out the same. Prompts are decoded one at a time, because that version chooses one layer for a batch.
"""

import json
import random
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM

BASE: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 128,
}
MODELS: dict[str, dict[str, Any]] = {
    "llama": {**BASE, "num_hidden_layers": 8, "tie_word_embeddings": False},
    "llama, tied": {**BASE, "num_hidden_layers": 9, "tie_word_embeddings": True},
    "llama, deep": {**BASE, "num_hidden_layers": 44, "hidden_size": 16, "tie_word_embeddings": False},
    "gpt2": {"vocab_size": 97, "n_embd": 32, "n_layer": 6, "n_head": 4, "n_positions": 128},
    "gpt2, shallow": {"vocab_size": 97, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128},
}
LAYERS: tuple[Any, ...] = ("high", "low", [0], [1, 0])
NEW_TOKENS = 16


def build(name: str, seed: int = 0) -> Any:
    """Build a model in float64 whose distributions are sharp."""
    config = AutoConfig.for_model(name.split(",", maxsplit=1)[0], **MODELS[name])
    config.pad_token_id, config.bos_token_id, config.eos_token_id = 0, 1, None
    model = AutoModelForCausalLM.from_config(config).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, parameter in sorted(model.named_parameters()):
            noise = 0.3 * torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise + (parameter.dim() == 1 and not key.endswith("bias")))
    return model.eval()


def checksum(model: Any) -> float:
    """Return a number that changes with any weight."""
    return float(sum((p.detach() ** 2).sum() for _, p in sorted(model.named_parameters())))


def make_prompts() -> list[list[int]]:
    source = random.Random(0)
    return [[source.randrange(2, 97) for _ in range(length)] for length in (5, 1, 9, 3)]


def main() -> None:
    cases = []
    for name in MODELS:
        model = build(name)
        for layers in LAYERS:
            rows = []
            for prompt in make_prompts():
                ids = torch.tensor([prompt])
                out = model.generate(
                    ids,
                    attention_mask=torch.ones_like(ids),
                    max_new_tokens=NEW_TOKENS,
                    do_sample=False,
                    dola_layers=layers,
                    eos_token_id=None,
                    pad_token_id=0,
                )
                rows.append(out[0, len(prompt) :].tolist())
            cases.append({"model": name, "checksum": checksum(model), "dola_layers": layers, "tokens": rows})
    lines = ",\n".join(map(json.dumps, cases))
    print(f'{{"transformers": "{transformers.__version__}", "torch": "{torch.__version__.split("+")[0]}", "cases": [')
    print(f"{lines}\n]}}")


if __name__ == "__main__":
    main()

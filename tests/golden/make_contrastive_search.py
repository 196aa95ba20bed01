"""Make `contrastive_search.json`: contrastive search of transformers 4.55.4, of the last versions that had it.

    python -m pip install --no-deps --target OLD transformers==4.55.4 tokenizers==0.21.4 huggingface_hub==0.34.4
    PYTHONPATH=OLD python tests/golden/make_contrastive_search.py

Models are built from configuration and seed, by the same statements as the test builds them; `checksum` tells whether
they have come out the same. Prompts are decoded one at a time.
"""

import itertools
import json
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM

GOLDEN = Path(__file__).with_name("contrastive_search.json")
VOCAB = 41
EOS = [4, 11]
NEW = 24
PROMPTS = [[5, 17, 3], [8, 2, 9, 21, 7, 20, 33], [6]]
_SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
_GROUPED: dict[str, Any] = {**_SHAPE, "num_key_value_heads": 2, "max_position_embeddings": 64}
MODELS: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "llama": _GROUPED,
    "qwen2": _GROUPED,
    "opt": {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 48,
        "word_embed_proj_dim": 48, "max_position_embeddings": 64,
    },
}  # fmt: skip
SETTINGS = [(2, 0.6), (4, 0.2), (4, 0.6), (4, 0.9), (8, 0.6), (10, 1.0)]
PROCESSED: list[dict[str, Any]] = [
    {},
    {"repetition_penalty": 1.5, "no_repeat_ngram_size": 2},
    {"min_new_tokens": 12},
]


def build(kind: str) -> Any:
    """Build a model in float64 whose distributions are sharp, yet leave several candidates."""
    config = AutoConfig.for_model(kind, vocab_size=VOCAB, **MODELS[kind])
    config.pad_token_id, config.bos_token_id, config.eos_token_id = 0, 1, None
    model = AutoModelForCausalLM.from_config(config).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for key, parameter in sorted(model.named_parameters()):
            noise = 0.2 * torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise + (parameter.dim() == 1 and not key.endswith("bias")))
    model.generation_config.eos_token_id = EOS
    model.generation_config.pad_token_id = 0
    return model.eval()


def checksum(model: Any) -> float:
    """Return a number that changes with any weight."""
    return float(sum((p.detach() ** 2).sum() for _, p in sorted(model.named_parameters())))


def main() -> None:
    """Run every case and write the file."""
    cases = []
    for kind, (k, penalty), processed in itertools.product(MODELS, SETTINGS, PROCESSED):
        if processed and (k, penalty) != (4, 0.6):
            continue
        model = build(kind)
        rows = []
        for prompt in PROMPTS:
            ids = torch.tensor([prompt])
            out = model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW, do_sample=False, top_k=k,
                penalty_alpha=penalty, **processed,
            )  # fmt: skip
            rows.append(out[0, len(prompt) :].tolist())
        case = {"kind": kind, "checksum": checksum(model), "k": k, "penalty": penalty, "processed": processed}
        cases.append({**case, "tokens": rows})
    record = {"transformers": transformers.__version__, "torch": torch.__version__.split("+")[0]}
    lines = ",\n".join(json.dumps(case) for case in cases)
    GOLDEN.write_text(json.dumps(record)[:-1] + ',\n"cases": [\n' + lines + "\n]}\n", encoding="utf-8")


if __name__ == "__main__":
    main()

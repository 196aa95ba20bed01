"""Make `group_beams.json`: what group beam search gave in transformers 4.55.4, the last version that had it.

    pip install transformers==4.55.4 torch
    PYTHONPATH=tests python tests/golden/make_group_beams.py

Models are random and rebuilt from their settings; their weights are set tensor by tensor in order of name, because
initial weights differ between versions. Hypotheses end with the first end-of-sequence id whichever they met, as
transformers writes them.
"""

import itertools
import json
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

GOLDEN = Path(__file__).with_name("group_beams.json")
NEW = 12
PROMPTS = [[5, 17, 3], [8, 2, 9, 21, 7, 20], [6]]
_SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
_SHAPES: dict[str, dict[str, int]] = {
    "llama": {**_SHAPE, "num_key_value_heads": 2, "max_position_embeddings": 64},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
}


def build(kind: str, vocab: int, eos: list[int]) -> PreTrainedModel:
    """Build a model in float32, as 4.55 keeps scores, whose distributions are sharp."""
    config = AutoConfig.for_model(kind, vocab_size=vocab, **_SHAPES[kind])
    config.pad_token_id, config.bos_token_id, config.eos_token_id = 0, 1, None
    model = AutoModelForCausalLM.from_config(config).float().eval()
    generator = torch.Generator().manual_seed(0)
    for _, parameter in sorted(model.named_parameters()):
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float32)
        parameter.data = 0.4 * noise if parameter.dim() > 1 else 1 + 0.1 * noise
    model.generation_config.eos_token_id = eos or None
    model.generation_config.pad_token_id = 0
    return model


def main() -> None:
    """Run every case and write the file."""
    cases: list[dict[str, Any]] = []
    stopping = itertools.product(([1.0, False], [0.0, True], [2.0, "never"], [-1.0, False]), ([], [4], [4, 11, 7]))
    shapes = itertools.cycle([("llama", 97), ("gpt2", 23), ("llama", 23)])
    groups = itertools.cycle([(4, 2, 0.5), (6, 3, 2.0), (4, 4, 1.0), (8, 2, 0.3)])
    for ((penalty, early), eos), (kind, vocab), (width, count, diversity) in zip(stopping, shapes, groups):  # noqa: B905
        settings: dict[str, Any] = {"length_penalty": penalty, "early_stopping": early}
        if len(cases) % 3 == 1:
            settings["no_repeat_ngram_size"] = 2
        model = build(kind, vocab, eos)
        for prompt in PROMPTS:
            found = model.generate(
                torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.int64), num_beams=width,
                num_beam_groups=count, diversity_penalty=diversity, num_return_sequences=width, max_new_tokens=NEW,
                do_sample=False, return_dict_in_generate=True, output_scores=True, trust_remote_code=True, **settings,
            )  # fmt: skip
            cases.append(
                {
                    "kind": kind, "vocab": vocab, "eos": eos, "prompt": prompt,
                    "width": width, "groups": count, "diversity": diversity, **settings,
                    "sequences": [sequence[len(prompt) :] for sequence in found.sequences.tolist()],
                    "scores": [round(score, 6) for score in found.sequences_scores.tolist()],
                }
            )  # fmt: skip
    record = {"transformers": transformers.__version__, "torch": torch.__version__.split("+")[0]}
    lines = ",\n".join(json.dumps(case) for case in cases)
    GOLDEN.write_text(json.dumps(record)[:-1] + ',\n"cases": [\n' + lines + "\n]}\n", encoding="utf-8")


if __name__ == "__main__":
    main()

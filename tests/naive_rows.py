"""Rows and models that tests of models share, and what transformers makes of them."""

import copy
import random
from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

import architectures
from descant.models import LanguageModel, inspect_model

PROMPT_LENGTHS = (5, 9, 3, 14)
NEW_TOKENS = 20


def prompts_of(lengths: Sequence[int], seed: int = 0) -> list[list[int]]:
    source = random.Random(seed)
    return [[source.randrange(2, architectures.VOCAB) for _ in range(length)] for length in lengths]


def reference(model: PreTrainedModel, prompt: list[int], count: int = NEW_TOKENS) -> list[int]:
    ids = torch.tensor([prompt])
    out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False)
    return out[0, len(prompt) :].tolist()


def best(logits: torch.Tensor) -> list[int]:
    return [int(row[-1].argmax()) for row in logits]


def decode_with_junk(model: LanguageModel, prompts: list[list[int]], *, roll_back: bool) -> list[list[int]]:
    """Greedy decoding in which rows read junk of different lengths between steps, and forget it again."""
    source = random.Random(1)
    model.add_rows(len(prompts))
    texts = [[token] for token in best(model.forward(prompts))]
    for _ in range(NEW_TOKENS - 1):
        if roll_back:
            before = list(model.lengths)
            junk = [[source.randrange(2, 90) for _ in range(source.randint(1, 4))] for _ in prompts]
            model.forward(junk)
            model.truncate(before)
        for text, token in zip(texts, best(model.forward([[text[-1]] for text in texts])), strict=True):
            text.append(token)
    return texts


TEXTS = [[5, 9, 11, 40, 3, 77], [8, 2], [60, 61, 62, 63, 64, 65, 66, 67, 68]]


def shallow(model: PreTrainedModel, layers: int) -> PreTrainedModel:
    """The same model with its later decoder layers removed."""
    cut = copy.deepcopy(model)
    _, modules = inspect_model(cut).decoder()
    del modules[layers:]
    config = cut.config
    for name in ("num_hidden_layers", "n_layer", "n_layers", "num_layers"):
        if hasattr(config, name):
            setattr(config, name, layers)
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:layers]
    return cut

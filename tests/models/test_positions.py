"""How long a text may be: models whose positions are scaled, computed or a table, against `model.generate`."""

import copy
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

import architectures
from descant import Decoder, PromptError, PromptLookup, Speculative, UnsupportedModelError
from descant.models import inspect_model
from descant.sources.window import WindowModel

SCALINGS: dict[str, dict[str, Any]] = {
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
    "linear": {"rope_type": "linear", "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "factor": 4.0},
}
LONGROPE = {
    "rope_type": "longrope",
    "original_max_position_embeddings": 16,
    "short_factor": [1.0] * 4,
    "long_factor": [1.5, 2.0, 3.0, 4.0],
}
PROMPTS = architectures.make_prompts(5, 40, 14, 23, 16)
NEW = 12


def scaled(kind: str, name: str = "qwen2") -> PreTrainedModel:
    """A model made for 16 positions and scaled to 64, as Qwen2.5 documents it: the configured length stays."""
    parameters = {"rope_theta": 10000.0, **{**SCALINGS, "longrope": LONGROPE}[kind]}
    return architectures.build(name, max_position_embeddings=16, rope_parameters=parameters)


def fresh(model: PreTrainedModel, prompt: list[int]) -> list[int]:
    """What a copy of a model that has read nothing else generates."""
    ids = torch.tensor([prompt])
    reader = copy.deepcopy(model)
    out = reader.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW, do_sample=False)
    return out[0, len(prompt) :].tolist()


@pytest.mark.parametrize("kind", SCALINGS)
def test_texts_go_on_as_far_as_positions_are_scaled(kind: str) -> None:
    model = scaled(kind)
    expected = [fresh(model, prompt) for prompt in PROMPTS]
    decoder = Decoder(model)
    outs = decoder.generate(PROMPTS, max_new_tokens=NEW)
    assert [list(out.token_ids) for out in outs] == expected
    again = decoder.generate(PROMPTS[::-1], max_new_tokens=NEW)
    assert [list(out.token_ids) for out in again] == expected[::-1]
    plain = architectures.build("qwen2", max_position_embeddings=64)
    unscaled = [fresh(plain, prompt) for prompt in PROMPTS]
    assert unscaled != expected, "the scaling changes nothing: nothing is tested"


@pytest.mark.parametrize("kind", SCALINGS)
@torch.inference_mode()
def test_scores_do_too(kind: str) -> None:
    model = scaled(kind)
    ends = architectures.make_prompts(9, 20, 30, 8, 3, seed=1)
    scores = Decoder(model).score(PROMPTS, ends)
    for prompt, end, score in zip(PROMPTS, ends, scores, strict=True):
        logits = copy.deepcopy(model)(torch.tensor([prompt + end[:-1]]), use_cache=False).logits[0, -len(end) :]
        expected = logits.log_softmax(-1).gather(-1, torch.tensor(end)[:, None]).sum()
        assert float(score) == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.parametrize("kind", SCALINGS)
def test_the_end_of_the_scaling_is_the_end(kind: str) -> None:
    decoder = Decoder(scaled(kind))
    [out] = decoder.generate([[3] * 60], max_new_tokens=10)
    assert (len(out.token_ids), out.finish_reason) == (4, "length")
    with pytest.raises(PromptError, match="which holds 64"):
        decoder.generate([[3] * 64])
    with pytest.raises(PromptError, match="which holds 64"):
        decoder.score([[3] * 60], [[4] * 6])


def test_a_length_that_is_raised_is_gone_to() -> None:
    model = architectures.build("qwen2", max_position_embeddings=16)
    assert len(Decoder(model).generate([[3] * 14], max_new_tokens=NEW)[0].token_ids) == 2
    model.config.max_position_embeddings = 64
    outs = Decoder(model).generate(PROMPTS, max_new_tokens=NEW)
    assert [list(out.token_ids) for out in outs] == [fresh(model, prompt) for prompt in PROMPTS]


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
@torch.inference_mode()
def test_windows_have_the_frequencies_of_their_own_length(kind: str) -> None:
    """Windows before and beyond where the scaling begins, read in one call."""
    model = scaled(kind)
    window = WindowModel(inspect_model(model), 24)
    texts = architectures.make_prompts(30, 6, 20, 9)
    window.add_rows(len(texts))
    for text, row in zip(texts, window.forward(texts)[:, -1], strict=True):
        alone = copy.deepcopy(model)(torch.tensor([text[-24:]]), use_cache=False).logits[0, -1]
        torch.testing.assert_close(row, alone)


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_what_the_longest_text_changes_is_read_row_by_row(kind: str) -> None:
    seen = inspect_model(scaled(kind))
    assert (seen.cache, seen.scaling) == ("transformers", kind)
    assert f"{kind} scaling changes the positions of a whole pass" in seen.reason
    with pytest.raises(UnsupportedModelError, match="forget rejected tokens"):
        Decoder(scaled(kind)).generate([[3]], strategy=Speculative(draft=PromptLookup(2)))


def test_the_least_dynamic_scaling_counts_too() -> None:
    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 1.5}
    model = architectures.build("qwen2", max_position_embeddings=16, rope_parameters=rope)
    seen = inspect_model(model)
    assert (seen.cache, seen.context) == ("transformers", 24)


@pytest.mark.parametrize("parameters", [{"factor": 1.0}, {"factor": 1.0, "alpha": 1000.0}])
def test_dynamic_scaling_that_begins_where_the_context_ends_changes_nothing(parameters: dict[str, Any]) -> None:
    """As the checkpoints of HunYuan have it."""
    parameters = {"rope_type": "dynamic", "rope_theta": 10000.0, **parameters}
    model = architectures.build("hunyuan_v1_dense", max_position_embeddings=32, rope_parameters=parameters)
    assert inspect_model(model).cache == "ragged"
    prompts = architectures.make_prompts(5, 20, 9, 14)
    outs = Decoder(model).generate(prompts, max_new_tokens=NEW)
    assert [list(out.token_ids) for out in outs] == [fresh(model, prompt) for prompt in prompts]
    assert len(Decoder(model).generate([[3] * 30], max_new_tokens=NEW)[0].token_ids) == 2


@pytest.mark.parametrize("name", ["bloom", "falcon"])
def test_alibi_goes_on_for_ever(name: str) -> None:
    """BLOOM's checkpoints carry the length of their training."""
    changes = {"bloom": {"seq_length": 16}, "falcon": {"alibi": True}}[name]
    model = architectures.build(name, max_position_embeddings=16, **changes)
    outs = Decoder(model).generate(PROMPTS, max_new_tokens=NEW)
    assert [list(out.token_ids) for out in outs] == [fresh(model, prompt) for prompt in PROMPTS]


def test_a_table_is_a_limit() -> None:
    for name in ("mpt", "gpt2", "gptj"):
        lengths = {"max_seq_len": 16} if name == "mpt" else {"n_positions": 16, "max_position_embeddings": 16}
        decoder = Decoder(architectures.build(name, **lengths))
        [short, full] = decoder.generate([[3] * 4, [3] * 14], max_new_tokens=6)
        assert (len(short.token_ids), len(full.token_ids)) == (6, 2)
        with pytest.raises(PromptError, match="which holds 16"):
            decoder.generate([[3] * 16])

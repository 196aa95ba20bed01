"""Every architecture over the ragged cache against `model.generate` and against passes without a cache."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.multiprocessing.reductions import StorageWeakRef
from transformers import PreTrainedModel

import architectures
from descant import UnsupportedModelError
from descant.models import inspect_model, open_model
from descant.models.architecture import VERIFIED
from descant.models.cache import RaggedLayer
from descant.models.ragged import RaggedModel
from naive_rows import PROMPT_LENGTHS, decode_with_junk, prompts_of, reference


@pytest.mark.parametrize("name", architectures.RAGGED)
@torch.inference_mode()
def test_ragged_rows_decode_as_generate_does(name: str) -> None:
    model = architectures.build(name)
    seen = inspect_model(model)
    assert seen.cache == "ragged", seen.reason
    prompts = prompts_of(PROMPT_LENGTHS)
    expected = [reference(model, prompt) for prompt in prompts]
    assert len({token for row in expected for token in row}) >= 4, "the reference repeats itself: nothing is tested"
    assert decode_with_junk(open_model(seen), prompts, roll_back=True) == expected


@pytest.mark.parametrize("name", sorted(set(architectures.OWN_CACHE) - {"recurrent_gemma"}))
@torch.inference_mode()
def test_other_models_decode_as_generate_does_and_refuse_to_roll_back(name: str) -> None:
    model = architectures.build(name)
    opened = open_model(inspect_model(model))
    prompts = prompts_of(PROMPT_LENGTHS)
    expected = [reference(model, prompt) for prompt in prompts]
    assert decode_with_junk(opened, prompts, roll_back=False) == expected
    assert opened.why_not_truncate
    with pytest.raises(UnsupportedModelError, match="forget rejected tokens"):
        opened.truncate([length - 1 for length in opened.lengths])


def test_a_model_whose_modules_hold_its_state_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="rows would mix"):
        inspect_model(architectures.build("recurrent_gemma"))


def test_flash_attention_is_refused_with_the_remedy() -> None:
    model = architectures.build("llama")
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(UnsupportedModelError, match="set_attn_implementation"):
        inspect_model(model)


@torch.inference_mode()
def full_logits(model: PreTrainedModel, text: list[int]) -> torch.Tensor:
    """The logits after each token of a text, without a cache."""
    return model(torch.tensor([text]), use_cache=False).logits[0]


MODELS = {name: architectures.build(name) for name in ("qwen2", "mistral windowed", "bloom", "gemma2")}


@settings(max_examples=40, deadline=None)
@given(data=st.data(), name=st.sampled_from(sorted(MODELS)))
def test_any_sequence_of_operations_equals_a_pass_without_cache(data: st.DataObject, name: str) -> None:
    """Rows join, advance by blocks, roll back, leave, are permuted and forked; logits stay those of their texts."""
    model = MODELS[name]
    opened = open_model(inspect_model(model))
    texts: list[list[int]] = []
    tokens = st.integers(2, architectures.VOCAB - 1)
    for _ in range(data.draw(st.integers(2, 6))):
        count = data.draw(st.integers(0 if texts else 1, 2))
        opened.add_rows(count)
        texts += [[] for _ in range(count)]
        keep = data.draw(st.integers(1, 3))
        first = data.draw(st.integers(0, len(texts) - 1))
        new = [data.draw(st.lists(tokens, min_size=1, max_size=9)) for _ in texts[first:]]
        logits = opened.forward(new, keep=keep, first_row=first)
        for text, added, row in zip(texts[first:], new, logits, strict=True):
            text += added
            real = min(keep, len(added))
            torch.testing.assert_close(row[-real:], full_logits(model, text)[-real:], rtol=1e-5, atol=1e-5)
        lengths = [data.draw(st.integers(0, len(text))) for text in texts]
        opened.truncate(lengths)
        texts = [text[:length] for text, length in zip(texts, lengths, strict=True)]
        rows = data.draw(st.lists(st.integers(0, len(texts) - 1), min_size=1, max_size=5))
        opened.keep_rows(rows)
        texts = [list(texts[row]) for row in rows]
        assert list(opened.lengths) == [len(text) for text in texts]


def test_what_is_called_verified_is_tested_here() -> None:
    assert {name.split()[0] for name in architectures.RAGGED} == VERIFIED


@torch.inference_mode()
def test_a_layer_that_has_grown_leaves_nothing_of_its_old_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the peak is one layer above the new size, though views of all layers are kept between passes."""
    model = open_model(inspect_model(architectures.build("qwen2")))
    assert isinstance(model, RaggedModel)
    model.add_rows(2)
    model.forward([[5, 6, 7], [8]])
    model.cache.buffers(0, 2, 8)
    grow, grown = RaggedLayer.resize, []

    def resize(layer: RaggedLayer, rows: int, capacity: int) -> None:
        assert layer.keys is not None
        before = StorageWeakRef(layer.keys.untyped_storage())
        grow(layer, rows, capacity)
        grown.append(before.expired())

    monkeypatch.setattr(RaggedLayer, "resize", resize)
    model.forward([[9] * 300, [9]])
    assert grown == [True] * len(model.cache.layers)

"""Models pickled without their weights: the same in all that code depends on, small, and able to run."""

import pickle

import pytest
import torch

import architectures
from descant.models import artefacts, inspect_model, skeleton
from descant.models.huggingface import RaggedModel
from descant.models.packing import pack
from descant.models.quantization import quantize

KINDS = ("gpt2", "qwen2 windowed", "gemma3_text", "mixtral", "opt")
ROOMY = {"hidden_size": 64, "intermediate_size": 64}
"""Sizes that int4 takes."""


@pytest.mark.parametrize("name", KINDS)
def test_a_copy_without_weights_is_the_same_model_to_a_compiler(name: str) -> None:
    model = architectures.build(name, vocab_size=3000)
    data = skeleton.dump(model)
    held = sum(weight.nbytes for weight in model.parameters())
    assert len(data) < 50_000 < held
    copy = skeleton.load(data)
    assert artefacts.fingerprint(inspect_model(copy)) == artefacts.fingerprint(inspect_model(model))
    check_runs(copy)


@pytest.mark.parametrize("form", ["packed", "int8", "int4"])
def test_a_copy_of_replaced_layers_has_their_forms(form: str) -> None:
    model = architectures.build("llama", **ROOMY, tie_word_embeddings=True).bfloat16()
    if form == "packed":
        pack(model, smallest=0)
    else:
        quantize(model, "int8" if form == "int8" else "int4")
    copy = skeleton.load(skeleton.dump(model))
    assert artefacts.fingerprint(inspect_model(copy)) == artefacts.fingerprint(inspect_model(model))
    check_runs(copy)


def test_weights_that_modules_share_stay_shared() -> None:
    model = architectures.build("qwen2", tie_word_embeddings=True)
    copy = skeleton.load(skeleton.dump(model))
    assert copy.lm_head.weight is copy.model.embed_tokens.weight


def test_small_tensors_and_indices_are_sent_as_they_are() -> None:
    small, indices, flags = torch.randn(3, 5).t(), torch.arange(10_000), torch.rand(10_000) < 0.5
    sent = skeleton.load(skeleton.dump((small, indices, flags)))
    for copy, original in zip(sent, (small, indices, flags), strict=True):
        assert torch.equal(copy, original)
        assert copy.stride() == original.stride()
    weight = torch.randn(300, 200).t()
    copy = skeleton.load(skeleton.dump(weight))
    assert (copy.shape, copy.stride(), copy.dtype) == (weight.shape, weight.stride(), weight.dtype)
    assert not torch.equal(copy, weight)


def test_what_no_pickle_can_hold_is_refused() -> None:
    model = architectures.build("llama")
    model.model.register_forward_hook(lambda *_: None)
    with pytest.raises((pickle.PicklingError, AttributeError)):
        skeleton.dump(model)


def test_a_tensor_of_another_class_is_refused() -> None:
    class Rounded(torch.Tensor):
        pass

    with pytest.raises(pickle.PicklingError, match="Rounded is more than its numbers"):
        skeleton.dump(torch.randn(1000).as_subclass(Rounded))


@torch.inference_mode()
def check_runs(network: torch.nn.Module) -> None:
    model = RaggedModel(inspect_model(network))  # type: ignore[arg-type]
    model.add_rows(2)
    assert model.forward([[3, 4], [5]]).isfinite().all()

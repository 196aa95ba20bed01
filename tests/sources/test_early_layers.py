"""The first layers as a drafting model, on the expert's cache, against the shallow model they are."""

import pytest
import torch

import architectures
from descant import UnsupportedModelError
from descant.models import inspect_model
from descant.models.ragged import RaggedModel
from descant.sources.early_layers import EarlyLayers
from naive_rows import TEXTS, shallow


@pytest.mark.parametrize("name", architectures.RAGGED)
@torch.inference_mode()
def test_early_layers_are_the_shallow_model_and_leave_the_expert_as_it_was(name: str) -> None:
    model = architectures.build(name)
    seen = inspect_model(model)
    expert = RaggedModel(seen)
    early = EarlyLayers(expert, 2, norm=True)
    for part in (expert, early):
        part.add_rows(len(TEXTS))
    expert.forward([text[:-1] for text in TEXTS])
    drafted = early.forward([[text[-1], 7, 9] for text in TEXTS], keep=3)
    assert list(early.lengths) == [len(text) + 2 for text in TEXTS]
    assert list(expert.lengths) == [len(text) - 1 for text in TEXTS]
    early.truncate([len(text) - 1 for text in TEXTS])
    full = expert.forward([text[-1:] for text in TEXTS])
    cut = shallow(model, 2)
    for row, text in enumerate(TEXTS):
        ids = torch.tensor([[*text, 7, 9]])
        torch.testing.assert_close(drafted[row], cut(ids, use_cache=False).logits[0, -3:], rtol=1e-4, atol=1e-4)
        expected = model(ids[:, :-2], use_cache=False).logits[0, -1]
        torch.testing.assert_close(full[row, -1], expected, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_models_whose_forward_was_replaced_are_refused() -> None:
    model = architectures.build("llama")
    model.model.forward = model.model.forward
    with pytest.raises(UnsupportedModelError, match="forward method replaced"):
        EarlyLayers(RaggedModel(inspect_model(model)), 1, norm=True)

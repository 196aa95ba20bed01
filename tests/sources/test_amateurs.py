"""Early exits and windows against models that really are shallow, or really see only the window."""

import pytest
import torch

import architectures
from descant import SettingsError, UnsupportedModelError
from descant.models import inspect_model
from descant.models.ragged import RaggedModel
from descant.sources.early_exit import make_exit
from descant.sources.window import WindowModel
from naive_rows import TEXTS, shallow


@pytest.mark.parametrize("layer", [1, 2])
@pytest.mark.parametrize("name", architectures.RAGGED)
@torch.inference_mode()
def test_an_early_exit_is_the_shallow_model(name: str, layer: int) -> None:
    """Through whatever the architecture does before and after its head; by blocks, on ragged rows."""
    model = architectures.build(name)
    seen = inspect_model(model)
    opened = RaggedModel(seen)
    opened.add_rows(len(TEXTS))
    early = make_exit(seen, layer, norm=True)
    opened.run([text[:-1] for text in TEXTS], keep=1, first_row=0, exits=(early,))
    final, exited = opened.run([text[-1:] for text in TEXTS], keep=1, first_row=0, exits=(early,))
    whole, cut = model, shallow(model, layer)
    for row, text in enumerate(TEXTS):
        ids = torch.tensor([text])
        torch.testing.assert_close(final[row, -1], whole(ids, use_cache=False).logits[0, -1], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(exited[row, -1], cut(ids, use_cache=False).logits[0, -1], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(final, exited, rtol=1e-2, atol=1e-2)


def test_a_recurrent_model_has_no_early_exit() -> None:
    with pytest.raises(UnsupportedModelError, match="recurrent state"):
        make_exit(inspect_model(architectures.build("mamba")), 1, norm=True)


def test_the_last_layer_is_no_early_exit() -> None:
    with pytest.raises(SettingsError, match="choose 1 to 2"):
        make_exit(inspect_model(architectures.build("llama")), 3, norm=True)


def test_a_tail_that_is_no_chain_of_modules_is_refused() -> None:
    model = architectures.build("llama")
    body = model.model.forward

    def scaled(*args: object, **kwargs: object) -> object:
        output = body(*args, **kwargs)
        output.last_hidden_state = output.last_hidden_state * 2
        return output

    model.model.forward = scaled
    with pytest.raises(UnsupportedModelError, match="norm=False"):
        make_exit(inspect_model(model), 1, norm=True)


@pytest.mark.parametrize("name", ["qwen2", "gpt2", "bloom", "mistral windowed", "mamba"])
@torch.inference_mode()
def test_a_window_sees_the_last_tokens_and_nothing_else(name: str) -> None:
    model = architectures.build(name)
    opened = WindowModel(inspect_model(model), 4)
    opened.add_rows(len(TEXTS))
    opened.forward([text[:1] for text in TEXTS])
    logits = opened.forward([text[1:] for text in TEXTS], keep=5)
    opened.keep_rows([2, 0])
    opened.truncate([5, 6])
    later = opened.forward([[90], [91, 92]], keep=1)

    def expected(text: list[int]) -> torch.Tensor:
        return model(torch.tensor([text[-4:]]), use_cache=False).logits[0, -1]

    for row, text in enumerate(TEXTS):
        for back in range(min(5, len(text) - 1)):
            torch.testing.assert_close(logits[row, -1 - back], expected(text[: len(text) - back]))
    torch.testing.assert_close(later[0, 0], expected([*TEXTS[2][:5], 90]))
    torch.testing.assert_close(later[1, 0], expected([*TEXTS[0], 91, 92]))

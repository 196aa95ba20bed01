"""The processor alone in transformers' loop, against the paper's formula without cache or batch."""

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

import oracle
from architectures import build
from descant import ContrastiveLogitsProcessor, EarlyExit, PromptError, SettingsError

EXPERT = cache(lambda: build("llama"))
AMATEUR = cache(lambda: build("llama", seed=1, num_hidden_layers=1))
IDS = torch.tensor([[0, 0, 5, 6, 7], [3, 4, 5, 6, 8], [0, 2, 3, 9, 4]])
MASK = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [0, 1, 1, 1, 1]])
PROMPTS = [[5, 6, 7], [3, 4, 5, 6, 8], [2, 3, 9, 4]]


def scores_of(texts: list[list[int]], amateur: Any = None, **settings: Any) -> Tensor:
    amateur = amateur or AMATEUR()
    pairs = [(oracle.last_logits(EXPERT(), text), oracle.last_logits(amateur, text)) for text in texts]
    return torch.tensor([oracle.contrastive(*pair, **settings) for pair in pairs], dtype=torch.float64)


def experts(texts: list[list[int]]) -> Tensor:
    return torch.stack([oracle.last_logits(EXPERT(), text) for text in texts])


@pytest.mark.parametrize("settings", [{}, {"alpha": 0.3, "candidates": 3}, {"beta": 0.5, "temperature": 0.7}], ids=str)
def test_in_generate_over_a_padded_batch(settings: dict[str, Any]) -> None:
    given = {"amateur_temperature" if name == "temperature" else name: value for name, value in settings.items()}
    processor = ContrastiveLogitsProcessor(AMATEUR(), **given, attention_mask=MASK)
    found = EXPERT().generate(IDS, attention_mask=MASK, max_new_tokens=12, logits_processor=[processor])
    full = oracle.full
    expected = [oracle.decode(row, full(EXPERT()), full(AMATEUR()), count=12, **settings) for row in PROMPTS]
    assert found[:, IDS.shape[1] :].tolist() == expected


@pytest.mark.parametrize("kind", ["llama", "mamba"])
def test_any_text_is_read_right(kind: str) -> None:
    """Continued, rejected, moved, forked, shortened, new; fewer rows and more."""
    amateur = build(kind, seed=1)
    processor = ContrastiveLogitsProcessor(amateur)
    for texts in (
        [[3, 4, 5, 6], [7, 8, 9, 2]],
        [[3, 4, 5, 6, 1], [7, 8, 9, 2, 1]],
        [[7, 8, 9, 2, 1, 5], [3, 4, 5, 6, 1, 5]],
        [[7, 8, 9, 2, 1, 5, 9], [7, 8, 9, 2, 1, 5, 8]],
        [[7, 8, 9, 2, 6, 6, 6], [7, 8, 9, 2, 1, 5, 8]],
        [[7, 8], [7, 8]],
        [[7, 8], [7, 8]],
        [[7, 8, 3]],
        [[1, 2, 3, 4], [7, 8, 3, 4], [5, 5, 5, 5]],
    ):
        found = processor(torch.tensor(texts), experts(texts))
        torch.testing.assert_close(found, scores_of(texts, amateur), rtol=1e-5, atol=1e-5)


def test_beams_of_generate() -> None:
    """Rows move and fork between steps; another processor without any memory is the oracle."""

    class Forgetful(ContrastiveLogitsProcessor):
        def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
            fresh = ContrastiveLogitsProcessor(AMATEUR(), beta=0.5, attention_mask=MASK)
            return fresh(input_ids, scores)

    settings = {"attention_mask": MASK, "num_beams": 3, "max_new_tokens": 8}
    found = [
        EXPERT().generate(IDS, logits_processor=[kind(AMATEUR(), beta=0.5, attention_mask=MASK)], **settings)
        for kind in (ContrastiveLogitsProcessor, Forgetful)
    ]
    assert torch.equal(*found)


def test_a_continued_text_costs_one_token() -> None:
    processor = ContrastiveLogitsProcessor(AMATEUR())
    read: list[int] = []
    hook = AMATEUR().get_input_embeddings().register_forward_hook(lambda _m, args, _o: read.append(args[0].shape[1]))
    for text in ([3, 4, 5, 6], [3, 4, 5, 6, 7], [3, 4, 5, 6, 8, 9]):
        processor(torch.tensor([text]), experts([text]))
    hook.remove()
    assert read == [4, 1, 2]


def test_tokens_the_amateur_does_not_know() -> None:
    small = build("llama", seed=1, num_hidden_layers=1, vocab_size=90)
    texts = [[3, 4, 5]]
    found = ContrastiveLogitsProcessor(small, alpha=0.001)(torch.tensor(texts), experts(texts).float())
    assert found.shape == (1, 97)
    assert found.dtype == torch.float32
    assert bool((found[:, 90:] == -torch.inf).all())
    torch.testing.assert_close(found[:, :90].double(), scores_of(texts, small, alpha=0.001), rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("unchecked_types")
def test_refusals() -> None:
    with pytest.raises(SettingsError, match="give a loaded model"):
        ContrastiveLogitsProcessor(EarlyExit(1))  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match=r"alpha is 2\.0"):
        ContrastiveLogitsProcessor(AMATEUR(), alpha=2.0)
    with pytest.raises(SettingsError, match="begins with the padding token"):
        ContrastiveLogitsProcessor(AMATEUR())(IDS, torch.zeros(3, 97))
    with pytest.raises(SettingsError, match="a processor for each batch"):
        ContrastiveLogitsProcessor(AMATEUR(), attention_mask=MASK)(IDS[:2], torch.zeros(2, 97))
    with pytest.raises(PromptError, match="longer than the context"):
        ContrastiveLogitsProcessor(AMATEUR())(torch.full((1, 129), 3), torch.zeros(1, 97))

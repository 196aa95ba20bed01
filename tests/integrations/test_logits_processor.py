"""The processor alone in transformers' loop, against the paper's formula without cache or batch."""

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

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
    amateur.generation_config.pad_token_id = 0
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
    with pytest.raises(SettingsError, match="a processor for each batch"):
        ContrastiveLogitsProcessor(AMATEUR(), attention_mask=MASK)(IDS[:2], torch.zeros(2, 97))
    with pytest.raises(SettingsError, match=r"attention_mask is of shape \[5\]; give \[rows, tokens\]"):
        ContrastiveLogitsProcessor(AMATEUR(), attention_mask=MASK[0])
    with pytest.raises(SettingsError, match=r"hides the last token of a row; .* on the left"):
        ContrastiveLogitsProcessor(AMATEUR(), attention_mask=MASK.flip(1))
    with pytest.raises(PromptError, match="longer than the context"):
        ContrastiveLogitsProcessor(AMATEUR())(torch.full((1, 129), 3), torch.zeros(1, 97))


def amateur_of(pad: int | None, eos: int | list[int] | None = None, bos: int | None = None) -> PreTrainedModel:
    amateur = build("llama", seed=1, num_hidden_layers=1)
    config = amateur.generation_config
    assert config is not None
    config.pad_token_id, config.eos_token_id, config.bos_token_id = pad, eos, bos
    return amateur


AMBIGUOUS: dict[str, tuple[dict[str, Any], list[list[int]]]] = {
    "padded, by the pad token": ({"pad": 0}, [[0, 0, 5, 6], [3, 4, 5, 6]]),
    "padded on the right": ({"pad": 0}, [[5, 6, 0, 0], [3, 4, 5, 6]]),
    "one text, padded": ({"pad": 0}, [[0, 0, 5, 6]]),
    "padded by the end of sequence": ({"pad": 0, "eos": [8, 9]}, [[9, 9, 5, 6], [3, 4, 5, 6]]),
    "the pad token begins or ends texts": ({"pad": 9, "eos": 9, "bos": 9}, [[9, 4, 5, 6]]),
    "no pad token": ({"pad": None}, [[9, 9, 5, 6], [3, 4, 5, 6]]),
    "no pad token, but a number for none": ({"pad": -1}, [[9, 9, 5, 6], [3, 4, 5, 6]]),
}


@pytest.mark.parametrize("case", AMBIGUOUS)
def test_what_may_be_padding_is_refused_without_a_mask(case: str) -> None:
    tokens, texts = AMBIGUOUS[case]
    amateur = amateur_of(**tokens)
    with pytest.raises(SettingsError, match=r"give attention_mask \(ones,") as refusal:
        ContrastiveLogitsProcessor(amateur)(torch.tensor(texts), experts(texts))
    assert "\n" not in str(refusal.value)
    ones = torch.ones(len(texts), 4)
    found = ContrastiveLogitsProcessor(amateur, attention_mask=ones)(torch.tensor(texts), experts(texts))
    torch.testing.assert_close(found, scores_of(texts), rtol=1e-5, atol=1e-5)


CLEAR: dict[str, tuple[dict[str, Any], list[list[int]]]] = {
    "no padding": ({"pad": 0, "eos": 9}, [[7, 4, 5, 6], [3, 4, 5, 6]]),
    "texts begin with the end of sequence": ({"pad": 1, "eos": 2, "bos": 2}, [[2, 4, 5, 6], [2, 5, 5, 6]]),
    "one text": ({"pad": None}, [[9, 9, 5, 6]]),
    "one text in several rows": ({"pad": None}, [[9, 9, 5, 6]] * 3),
}


@pytest.mark.parametrize("case", CLEAR)
def test_what_is_no_padding_needs_no_mask(case: str) -> None:
    tokens, texts = CLEAR[case]
    processor = ContrastiveLogitsProcessor(amateur_of(**tokens))
    for texts_now in (texts, [[*text, token] for token, text in enumerate(texts)]):  # rows may part, end and be padded
        found = processor(torch.tensor(texts_now), experts(texts_now))
        torch.testing.assert_close(found, scores_of(texts_now), rtol=1e-5, atol=1e-5)


def test_the_pad_token_is_read_when_a_batch_is_met() -> None:
    amateur, texts = amateur_of(None), [[9, 9, 5, 6], [3, 4, 5, 6]]
    processor = ContrastiveLogitsProcessor(amateur)
    assert amateur.generation_config is not None
    amateur.generation_config.pad_token_id = 0
    torch.testing.assert_close(processor(torch.tensor(texts), experts(texts)), scores_of(texts), rtol=1e-5, atol=1e-5)


def test_ended_rows_may_be_padded_with_a_token_that_the_amateur_lacks() -> None:
    small = build("llama", seed=1, num_hidden_layers=1, vocab_size=90)
    prompts, settings = [[3, 4, 5, 6], [7, 8, 9, 2]], {"max_new_tokens": 8}
    rows = [torch.tensor([row]) for row in prompts]
    alone = [EXPERT().generate(row, logits_processor=[ContrastiveLogitsProcessor(small)], **settings) for row in rows]
    eos = int(alone[0][0, 6])
    assert eos not in alone[1][0, 4:]
    ids = torch.tensor(prompts)
    found = EXPERT().generate(
        ids,
        attention_mask=torch.ones_like(ids),
        logits_processor=[ContrastiveLogitsProcessor(small)],
        eos_token_id=eos,
        pad_token_id=95,
        **settings,
    )
    assert found[1].tolist() == alone[1][0].tolist()
    assert found[0].tolist()[:7] == alone[0][0].tolist()[:7]
    assert set(found[0].tolist()[7:]) == {95}
    with pytest.raises(PromptError, match="do not fit a vocabulary of 90"):
        ContrastiveLogitsProcessor(small)(torch.tensor([[3, 95, 4]]), torch.zeros(1, 97))

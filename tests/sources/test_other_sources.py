"""Models that read another prompt, and n-gram models: logits are those of a fresh row."""

import random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import architectures
import oracle
from descant.models import LanguageModel, inspect_model, open_model
from descant.sources.ngram import Counts, NGramModel
from descant.sources.other_prompt import OtherPromptModel, Replacement

MODEL = architectures.build("qwen2", seed=1)
WIDTH = architectures.VOCAB


def other_prompts(source: random.Random) -> tuple[LanguageModel, Any, Any]:
    """A model, how rows are added to it, and its logits after a text, given its row's number from the start."""
    model = OtherPromptModel(open_model(inspect_model(MODEL)))
    replaced = [Replacement(source.randint(1, 4), [source.randrange(WIDTH) for _ in range(source.randint(1, 6))])]
    replaced += [Replacement(source.randint(1, 4), [source.randrange(WIDTH)])]
    model.replace(replaced)

    def expected(row: int, text: list[int]) -> torch.Tensor | None:
        prompt = replaced[row].prompt_length
        return oracle.last_logits(MODEL, [*replaced[row].tokens, *text[prompt:]]) if len(text) >= prompt else None

    return model, replaced, expected


def ngrams(source: random.Random) -> tuple[LanguageModel, Any, Any]:
    learns = source.random() < 0.7
    known = [[source.randrange(5) for _ in range(9)] for _ in range(2)]
    model = NGramModel(
        Counts(3, 5, () if learns else known), learns=learns, device=torch.device("cpu"), dtype=torch.float64
    )

    def expected(row: int, text: list[int]) -> torch.Tensor:
        return torch.tensor(oracle.ngram(text, [text] if learns else known, 3, 5)).double()

    return model, None, expected


@pytest.mark.parametrize("kind", [other_prompts, ngrams])
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32))
@torch.inference_mode()
def test_logits_are_those_of_a_fresh_row(kind: Any, seed: int) -> None:
    """Rows are read in blocks, rolled back, dropped, exchanged and forked."""
    source = random.Random(seed)
    model, _, expected = kind(source)
    model.add_rows(2)
    numbers, texts = [0, 1], [[], []]
    for _ in range(6):
        action = source.choice(["read", "read", "truncate", "keep"])
        if action == "read":
            new = [[source.randrange(model.width) for _ in range(source.randint(1, 5))] for _ in texts]
            keep = source.randint(1, 3)
            logits = model.forward(new, keep=keep)
            for row, (text, tokens) in enumerate(zip(texts, new, strict=True)):
                text += tokens
                for back in range(min(keep, len(tokens))):
                    correct = expected(numbers[row], text[: len(text) - back])
                    if correct is not None:
                        torch.testing.assert_close(logits[row, keep - 1 - back], correct)
        elif action == "truncate":
            lengths = [source.randint(0, len(text)) for text in texts]
            model.truncate(lengths)
            texts = [text[:length] for text, length in zip(texts, lengths, strict=True)]
        else:
            rows = [source.randrange(len(texts)) for _ in range(source.randint(1, 3))]
            model.keep_rows(rows)
            numbers, texts = [numbers[row] for row in rows], [list(texts[row]) for row in rows]
        assert list(model.lengths) == [len(text) for text in texts]


@pytest.mark.parametrize("order", [1, 2, 4])
def test_ngram_probabilities_add_up_to_one(order: int) -> None:
    source = random.Random(0)
    counts = Counts(order, 7, [[source.randrange(6) for _ in range(50)]])
    for text in ([], [3], [6], [1, 2, 3, 4], [6, 1]):
        probabilities = counts.probabilities(text)
        assert float(probabilities.sum()) == pytest.approx(1, abs=1e-12)
        assert (probabilities > 0).all()

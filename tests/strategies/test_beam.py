"""Beam search gives transformers' sequences, in order and with their scores, for every setting and in any batch."""

from collections.abc import Sequence
from typing import Any

import architectures
import pytest
import torch
from transformers import PreTrainedModel

from descant import Beam, Decoder, Likelihood, MinNewTokens, NoRepeatNGram, Output, RepetitionPenalty, Sample

PROMPTS = [[5, 17, 3], [8, 2, 9, 41, 7, 30], [60]]
NEW = 12


def model(name: str = "llama", eos: Sequence[int] = (), vocab: int = architectures.VOCAB) -> PreTrainedModel:
    """A sharp random model with end-of-sequence ids; of a small vocabulary, they are met often."""
    built = architectures.build(name, vocab_size=vocab)
    built.generation_config.eos_token_id = list(eos) or None
    return built


def theirs(built: PreTrainedModel, prompt: list[int], width: int, **settings: Any) -> list[tuple[list[int], float]]:
    """All sequences of `model.generate`, best first, cut after the end of sequence, with their scores."""
    eos = built.generation_config.eos_token_id or []
    with torch.inference_mode():
        found = built.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
            num_beams=width,
            num_return_sequences=width,
            max_new_tokens=settings.pop("max_new_tokens", NEW),
            return_dict_in_generate=True,
            output_scores=True,
            **{"do_sample": False, **settings},
        )
    sequences = [sequence[len(prompt) :] for sequence in found.sequences.tolist()]
    ends = [min([i + 1 for i, token in enumerate(tokens) if token in eos] or [len(tokens)]) for tokens in sequences]
    cut = [tokens[:end] for tokens, end in zip(sequences, ends, strict=True)]
    return list(zip(cut, found.sequences_scores.tolist(), strict=True))


def ours(output: Output) -> list[tuple[list[int], float]]:
    beams = [output, *output.alternatives]
    assert all(beam.score is not None for beam in beams)
    return [(beam.token_ids, beam.score or 0.0) for beam in beams]


def assert_same(output: Output, expected: list[tuple[list[int], float]]) -> None:
    found = ours(output)
    assert [tokens for tokens, _ in found] == [tokens for tokens, _ in expected]
    assert [score for _, score in found] == pytest.approx([score for _, score in expected], rel=1e-4, abs=1e-4)


def decode(built: PreTrainedModel, prompts: Any, beam: Beam, processors: Sequence[Any] = (), **settings: Any) -> Any:
    return Decoder(built).generate(
        prompts, Likelihood(), processors, beam, **{"max_new_tokens": NEW, **settings}
    )


@pytest.mark.parametrize("width", range(2, 9))
def test_every_width_gives_the_beams_of_transformers(width: int) -> None:
    built = model(eos=[4])
    for prompt, output in zip(PROMPTS, decode(built, PROMPTS, Beam(width)), strict=True):
        assert_same(output, theirs(built, prompt, width))


@pytest.mark.parametrize("early_stopping", [True, False, "never"])
@pytest.mark.parametrize("length_penalty", [-1.0, 0.0, 1.0, 2.0])
@pytest.mark.parametrize("eos", [[4], [4, 11, 7]], ids=["one eos", "three eos"])
def test_stopping_and_length_penalty_are_those_of_transformers(
    early_stopping: Any, length_penalty: float, eos: list[int]
) -> None:
    for name in ("llama", "gpt2"):
        built = model(name, eos, vocab=23)
        prompts = [[token % 23 for token in prompt] for prompt in PROMPTS]
        beam = Beam(4, length_penalty, early_stopping)
        for prompt, output in zip(prompts, decode(built, prompts, beam), strict=True):
            settings = {"early_stopping": early_stopping, "length_penalty": length_penalty}
            assert_same(output, theirs(built, prompt, 4, **settings))

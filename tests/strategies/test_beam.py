"""Beam search gives transformers' sequences, in order and with their scores, for every setting and in any batch."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
import torch
import transformers
from packaging.version import Version
from transformers import GenerationMixin, PreTrainedModel

import architectures
from descant import (
    Beam,
    Decoder,
    Likelihood,
    MinNewTokens,
    NoRepeatNGram,
    Output,
    RepetitionPenalty,
    Sample,
    Temperature,
)
from golden import make_group_beams

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
    sequences = [until_end(sequence[len(prompt) :], eos) for sequence in found.sequences.tolist()]
    return list(zip(sequences, found.sequences_scores.tolist(), strict=True))


def until_end(tokens: list[int], eos: Sequence[int]) -> list[int]:
    """Cut off the padding."""
    ends = [place + 1 for place, token in enumerate(tokens) if token in eos]
    return tokens[: min(ends, default=len(tokens))]


def ours(output: Output) -> list[tuple[list[int], float]]:
    beams = [output, *output.alternatives]
    assert all(beam.score is not None for beam in beams)
    return [(beam.token_ids, beam.score or 0.0) for beam in beams]


def rank_what_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a transformers before 5.24 rank the candidates that it has drawn, as it does since."""
    if Version(transformers.__version__) >= Version("5.24"):
        return
    draw = GenerationMixin._get_top_k_continuations

    def ranked(self: Any, *args: Any, **settings: Any) -> tuple[torch.Tensor, ...]:
        totals, *others = draw(self, *args, **settings)
        totals, order = totals.sort(dim=-1, descending=True)
        index = order[:, :, None]
        return totals, *(torch.take_along_dim(other, index, 1) for other in others)

    monkeypatch.setattr(GenerationMixin, "_get_top_k_continuations", ranked)


def assert_same(output: Output, expected: list[tuple[list[int], float]]) -> None:
    found = ours(output)
    assert [tokens for tokens, _ in found] == [tokens for tokens, _ in expected]
    assert [score for _, score in found] == pytest.approx([score for _, score in expected], rel=1e-4, abs=1e-4)


def decode(built: PreTrainedModel, prompts: Any, beam: Beam, processors: Sequence[Any] = (), **settings: Any) -> Any:
    return Decoder(built).generate(prompts, Likelihood(), processors, beam, **{"max_new_tokens": NEW, **settings})


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


@pytest.mark.parametrize("name", ["qwen2", "mistral windowed", "mamba"])
def test_models_of_every_kind_fork(name: str) -> None:
    built = model(name, [4])
    [output] = decode(built, [PROMPTS[1]], Beam(3))
    assert_same(output, theirs(built, PROMPTS[1], 3))


@pytest.mark.parametrize(
    ("processors", "settings"),
    [
        ([NoRepeatNGram(2)], {"no_repeat_ngram_size": 2}),
        ([RepetitionPenalty(1.7)], {"repetition_penalty": 1.7}),
        ([MinNewTokens(6)], {"min_new_tokens": 6}),
        ([RepetitionPenalty(1.3), NoRepeatNGram(1)], {"repetition_penalty": 1.3, "no_repeat_ngram_size": 1}),
    ],
    ids=str,
)
def test_processors_act_on_log_probabilities_as_in_transformers(
    processors: list[Any], settings: dict[str, Any]
) -> None:
    built = model(eos=[4, 11], vocab=23)
    prompts = [[token % 23 for token in prompt] for prompt in PROMPTS]
    for prompt, output in zip(prompts, decode(built, prompts, Beam(4), processors), strict=True):
        assert_same(output, theirs(built, prompt, 4, **settings))


@pytest.mark.parametrize("eos", [[], [4], [4, 11]], ids=len)
@pytest.mark.parametrize("seed", [0, 1])
def test_drawn_beams_are_those_of_transformers(eos: list[int], seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rank_what_is_drawn(monkeypatch)
    built = model(eos=eos, vocab=23)
    prompts = [[5, 17, 3], [8, 2, 9]]
    torch.manual_seed(seed)
    with torch.inference_mode():
        found = built.generate(
            torch.tensor(prompts), attention_mask=torch.ones(2, 3, dtype=torch.int64), num_beams=4, do_sample=True,
            num_return_sequences=4, max_new_tokens=NEW, top_k=0, temperature=3.0, output_scores=True,
            return_dict_in_generate=True,
        )  # fmt: skip
    torch.manual_seed(seed)
    outputs = decode(built, prompts, Beam(4, base=Sample(rng="transformers")), [Temperature(3.0)])
    sequences = found.sequences[:, 3:].tolist()
    scores = found.sequences_scores.tolist()
    for index, output in enumerate(outputs):
        rows = range(4 * index, 4 * index + 4)
        assert_same(output, [(until_end(sequences[row], eos), scores[row]) for row in rows])


GOLDEN = json.loads(make_group_beams.GOLDEN.read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", GOLDEN["cases"])
def test_groups_are_those_of_the_last_transformers_that_had_them(case: dict[str, Any]) -> None:
    eos = case["eos"]
    built = make_group_beams.build(case["kind"], case["vocab"], eos)
    beam = Beam(case["width"], case["length_penalty"], case["early_stopping"], case["groups"], case["diversity"])
    processors = [NoRepeatNGram(case["no_repeat_ngram_size"])] if "no_repeat_ngram_size" in case else []
    [output] = decode(built, [case["prompt"]], beam, processors, max_new_tokens=make_group_beams.NEW)
    found = [([*tokens[:-1], eos[0]] if tokens[-1] in eos else tokens, score) for tokens, score in ours(output)]
    expected = [until_end(tokens, eos) for tokens in case["sequences"]]
    assert [tokens for tokens, _ in found] == expected
    assert [score for _, score in found] == pytest.approx(case["scores"], rel=1e-3, abs=1e-3)

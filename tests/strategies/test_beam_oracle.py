"""Beams of any scoring against searches written plainly from their description: no cache, no batch, one sum a beam."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch

import architectures
import oracle
from descant import Beam, Contrastive, Decoder, EarlyExit, Greedy, Likelihood, Output, Sample
from descant.scoring import Scoring

Found = list[tuple[list[int], float]]

PROMPTS = [[5, 17, 3], [8, 2, 9, 41, 7, 30], [60]]
EXPERT = architectures.build("llama", seed=1, vocab_size=61)
AMATEUR = architectures.build("gpt2", seed=2, vocab_size=61)
EOS = 4
EXPERT.generation_config.eos_token_id = EOS


def contrast(alpha: float = 0.1, **settings: Any) -> oracle.Score:
    expert, amateur = oracle.full(EXPERT), oracle.full(AMATEUR)
    return lambda text: oracle.contrastive(expert(text), amateur(text), alpha=alpha, **settings)


def log_probs(text: list[int]) -> list[float]:
    logits: list[float] = oracle.full(EXPERT)(text).log_softmax(-1).tolist()
    return logits


def ours(output: Output) -> Found:
    return [(beam.token_ids, beam.score or 0.0) for beam in (output, *output.alternatives)]


def assert_same(output: Output, expected: Found) -> None:
    assert [tokens for tokens, _ in ours(output)] == [tokens for tokens, _ in expected]
    assert [score for _, score in ours(output)] == pytest.approx([score for _, score in expected], abs=1e-6)


@pytest.fixture
def pair() -> Decoder:
    return Decoder(EXPERT, amateur=AMATEUR)


@pytest.mark.parametrize("width", [2, 4])
@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
@pytest.mark.parametrize("alpha", [0.1, 1e-3])
def test_contrastive_beams_add_up_the_difference(
    pair: Decoder, width: int, length_penalty: float, alpha: float
) -> None:
    outputs = pair.generate(PROMPTS, Contrastive(alpha), strategy=Beam(width, length_penalty), max_new_tokens=8)
    for prompt, output in zip(PROMPTS, outputs, strict=True):
        assert_same(output, oracle.search(prompt, contrast(alpha), width, 8, [EOS], length_penalty=length_penalty))


def test_the_beta_form_adds_up_log_probabilities(pair: Decoder) -> None:
    def scores(text: list[int]) -> list[float]:
        values: list[float] = torch.tensor(contrast(beta=0.5)(text), dtype=torch.float64).log_softmax(-1).tolist()
        return values

    outputs = pair.generate(PROMPTS, Contrastive(beta=0.5), strategy=Beam(3), max_new_tokens=8)
    for prompt, output in zip(PROMPTS, outputs, strict=True):
        assert_same(output, oracle.search(prompt, scores, 3, 8, [EOS]))


def test_an_early_exit_serves_as_amateur_of_beams() -> None:
    expert, amateur = oracle.full(EXPERT), oracle.early_exit(EXPERT, 1)
    decoder = Decoder(EXPERT, amateur=EarlyExit(1))
    outputs = decoder.generate(PROMPTS, Contrastive(), strategy=Beam(3), max_new_tokens=8)
    for prompt, output in zip(PROMPTS, outputs, strict=True):
        expected = oracle.search(prompt, lambda text: oracle.contrastive(expert(text), amateur(text)), 3, 8, [EOS])
        assert_same(output, expected)


@pytest.mark.parametrize("width", [2, 3, 5])
def test_the_released_rule_looks_at_what_the_expert_finds_probable(pair: Decoder, width: int) -> None:
    def released(text: list[int]) -> list[float]:
        """Over the tokens with 0.1 of the best probability or more, and at least two."""
        e, a = (oracle.last_logits(model, text).log_softmax(-1) for model in (EXPERT, AMATEUR))
        least = min(float(e.max()) + math.log(0.1), float(e.topk(2).values[1]))
        return torch.where(e >= least, e - a / 0.5, -math.inf).tolist()  # type: ignore[no-any-return]

    scoring = Contrastive(amateur_temperature=0.5, normalization="released", min_tokens_to_keep=2)
    outputs = pair.generate(PROMPTS, scoring, strategy=Beam(width, ranking="expert"), max_new_tokens=8)
    others = pair.generate(PROMPTS, scoring, strategy=Beam(width), max_new_tokens=8)
    for prompt, output in zip(PROMPTS, outputs, strict=True):
        assert_same(output, oracle.search(prompt, released, width, 8, [EOS], rank=log_probs))
    assert [ours(output) for output in outputs] != [ours(output) for output in others]


@pytest.mark.parametrize("scoring", [Likelihood(), Contrastive(), Contrastive(beta=0.5)], ids=str)
@pytest.mark.parametrize("length_penalty", [1.0, 0.0])
def test_one_beam_is_greedy_decoding(pair: Decoder, scoring: Scoring, length_penalty: float) -> None:
    """Where it ends with the first end of sequence: else a longer text may score better."""
    plain = pair.generate(PROMPTS, scoring, strategy=Greedy(), max_new_tokens=20)
    beam = pair.generate(PROMPTS, scoring, strategy=Beam(1, length_penalty, early_stopping=True), max_new_tokens=20)
    assert [output.token_ids for output in beam] == [output.token_ids for output in plain]
    for one, other in zip(beam, plain, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-9)
        assert (one.finish_reason, one.alternatives) == (other.finish_reason, ())


def test_enough_beams_find_the_best_of_all_sequences() -> None:
    vocab, length = 5, 4
    model = architectures.build("gpt2", seed=3, vocab_size=vocab)
    decoder = Decoder(model)

    def total(tokens: Sequence[int]) -> float:
        logits = model(torch.tensor([[1, *tokens]]), use_cache=False).logits[0, :-1].log_softmax(-1)
        return float(sum(logits[place, token] for place, token in enumerate(tokens)))

    with torch.inference_mode():
        best = sorted((total(tokens), list(tokens)) for tokens in itertools.product(range(vocab), repeat=length))
    width = vocab ** (length - 1)
    [output] = decoder.generate([[1]], strategy=Beam(width, 0.0), max_new_tokens=length, batch_size=width)
    expected = [(tokens, score) for score, tokens in reversed(best[-width:])]
    assert_same(output, expected)


def test_seeded_beams_draw_alike_alone_and_together(pair: Decoder) -> None:
    strategy = Beam(3, base=Sample())
    together = pair.generate(PROMPTS, Likelihood(), strategy=strategy, max_new_tokens=8, seed=7)
    again = pair.generate([PROMPTS[0], [9], [9, 9, 9, 9]], Likelihood(), strategy=strategy, max_new_tokens=8, seed=7)
    other = pair.generate(PROMPTS, Likelihood(), strategy=strategy, max_new_tokens=8, seed=8)
    assert ours(again[0]) == [(tokens, pytest.approx(score)) for tokens, score in ours(together[0])]
    assert [output.token_ids for output in other] != [output.token_ids for output in together]

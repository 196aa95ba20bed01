"""Captured steps and passes on a GPU; `test_captured.py` checks the same on the CPU, by recording operations."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
import torch

import architectures
from architectures import make_prompts, near
from descant import (
    Decoder,
    Greedy,
    Likelihood,
    NoRepeatNGram,
    RepetitionPenalty,
    Sample,
    Speculative,
    Temperature,
    TopK,
    TopP,
)

pytestmark = pytest.mark.gpu

VOCAB = 61
PROMPTS = make_prompts(5, 1, 8, 30, vocab=VOCAB)
METHODS: dict[str, dict[str, Any]] = {
    "greedy": {"scoring": Likelihood()},
    "contrastive": {},
    "sampled": {"strategy": Sample(), "processors": (Temperature(1.3), TopK(40), TopP(0.95))},
    "penalised": {"processors": (RepetitionPenalty(1.3), NoRepeatNGram(3))},
    "speculative": {"strategy": Speculative(tokens=3)},
    "drafts drawn": {"strategy": Speculative(Sample(), tokens=3)},
}


@pytest.fixture(scope="module")
def pair() -> tuple[Any, Any]:
    expert = architectures.build("qwen2", seed=3, num_hidden_layers=3, vocab_size=VOCAB)
    expert.generation_config.eos_token_id = [4, 11]
    return expert.to("cuda"), near(expert, 0.05).to("cuda")


@pytest.mark.parametrize("method", METHODS)
def test_graphs_give_the_tokens_of_eager_passes(method: str, pair: tuple[Any, Any]) -> None:
    expert, amateur = pair
    settings = {"max_new_tokens": 70, "batch_size": 3, "seed": 5, **METHODS[method]}
    plain, captured = (
        Decoder(expert, amateur=amateur, runner=runner).generate(PROMPTS, **settings)  # type: ignore[arg-type]
        for runner in ("eager", "graph")
    )
    assert [out.token_ids for out in captured] == [out.token_ids for out in plain]
    for one, other in zip(captured, plain, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-8)


def test_graphs_give_the_tokens_of_generate(pair: tuple[Any, Any]) -> None:
    expert, _ = pair
    outs = Decoder(expert, runner="graph").generate(PROMPTS, max_new_tokens=40)
    for prompt, out in zip(PROMPTS, outs, strict=True):
        ids = torch.tensor([prompt], device="cuda")
        whole = expert.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=40, do_sample=False)
        assert out.token_ids == whole[0, len(prompt) :].tolist()


def test_threads_decode_with_one_decoder(pair: tuple[Any, Any]) -> None:
    expert, amateur = pair
    strategies = [Greedy(), Speculative(tokens=3)] * 2

    def decode(decoder: Decoder, number: int) -> list[int]:
        [out] = decoder.generate([PROMPTS[number]], strategy=strategies[number], max_new_tokens=50, ignore_eos=True)
        return out.token_ids

    plain, captured = (Decoder(expert, amateur=amateur, runner=runner) for runner in ("eager", "graph"))  # type: ignore[arg-type]
    with ThreadPoolExecutor() as threads:
        found = list(threads.map(partial(decode, captured), range(4)))
    assert found == [decode(plain, number) for number in range(4)]


def test_nothing_waits_inside_a_step(pair: tuple[Any, Any]) -> None:
    """torch reports what synchronises with the device as an error, but for reading what was chosen."""
    expert, amateur = pair
    decoder = Decoder(expert, amateur=amateur, runner="graph")
    pieces = decoder.stream([PROMPTS[2]], max_new_tokens=60, ignore_eos=True)
    for _ in range(40):  # the first buffers are outgrown before that
        next(pieces)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(10):
            next(pieces)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    pieces.close()

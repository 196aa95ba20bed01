"""Parts that the package does not have, as docs/adding-a-method.md writes them, against naive loops."""

import contextlib
import io
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

import architectures
import oracle
from descant import Beam, Contrastive, Decoder, Greedy, RepetitionPenalty, Sample, Speculative
from descant.numerics import choose
from test_documents import blocks

EXPERT = architectures.build("qwen2", seed=1)
EXPERT.generation_config.eos_token_id = list(range(40, 50))
AMATEUR = architectures.build("llama", seed=2, num_hidden_layers=1)
PROMPTS = [[3, 9, 11, 5], [8], [2, 4, 6, 8, 10, 12], [7, 7], [1, 30, 40]]
TARGET, RATE = 2.0, 0.7
TEXTS = ((5, 6, 5, 7), (5, 60, 80, 80, 80))
Scores = Callable[[list[int]], list[float]]


@pytest.fixture(scope="module")
def page() -> dict[str, Any]:
    """What the page's blocks define."""
    session: dict[str, Any] = {}
    with contextlib.redirect_stdout(io.StringIO()):
        for kind, code in blocks("docs/adding-a-method.md"):
            if kind == "python":
                exec(compile(code, "adding-a-method", "exec"), session)
    return session


def greedily(prompt: list[int], scores: Scores, count: int) -> list[int]:
    text = list(prompt)
    while len(text) < len(prompt) + count and (len(text) == len(prompt) or text[-1] not in range(40, 50)):
        found = scores(text)
        text.append(found.index(max(found)))
    return text[len(prompt) :]


def mixed(text: list[int]) -> list[float]:
    """log(0.7 · p_E + 0.3 · p_A) after a text."""
    expert, amateur = (oracle.last_logits(model, text).softmax(-1).tolist() for model in (EXPERT, AMATEUR))
    return [math.log(0.7 * p + 0.3 * q) for p, q in zip(expert, amateur, strict=True)]


def surprised(prompt: list[int], generator: torch.Generator, count: int, ends: Sequence[int]) -> list[int]:
    """Decode one row by Mirostat: the first token whose cumulated probability exceeds the draw."""
    text, mu = list(prompt), 2 * TARGET
    for _ in range(count):
        probabilities = oracle.last_logits(EXPERT, text).softmax(-1).tolist()
        bits = [-math.log2(p) for p in probabilities]
        allowed = [p if s <= max(mu, min(bits)) else 0.0 for p, s in zip(probabilities, bits, strict=True)]
        token = drawn(allowed, generator)
        text.append(token)
        mu -= RATE * (bits[token] - TARGET)
        if token in ends:
            break
    return text[len(prompt) :]


def drawn(weights: Sequence[float], generator: torch.Generator) -> int:
    wanted = float(torch.rand((), generator=generator, dtype=torch.float64)) * sum(weights)
    token, total = -1, 0.0
    while total <= wanted:
        token += 1
        total += weights[token]
    return token


@pytest.mark.parametrize("strategy", [Greedy(), Speculative(tokens=3, confidence=0.0)], ids=repr)
def test_a_scoring(page: dict[str, Any], strategy: Any) -> None:
    decoder = Decoder(EXPERT, amateur=AMATEUR)
    outs = decoder.generate(PROMPTS, page["Mixture"](0.3), strategy=strategy, max_new_tokens=15, batch_size=2)
    assert [out.token_ids for out in outs] == [greedily(prompt, mixed, 15) for prompt in PROMPTS]


def test_a_processor(page: dict[str, Any]) -> None:
    def expected(prompt: list[int], generator: torch.Generator) -> list[int]:
        text = list(prompt)
        while len(text) < len(prompt) + 15 and (len(text) == len(prompt) or text[-1] not in range(40, 50)):
            probabilities = oracle.last_logits(EXPERT, text).softmax(-1).tolist()
            least = 0.4 * max(probabilities) ** 2
            text.append(drawn([p if p >= least else 0.0 for p in probabilities], generator))
        return text[len(prompt) :]

    decoder = Decoder(EXPERT)
    outs = decoder.generate(PROMPTS, None, [page["TopA"](0.4)], Sample(), seed=9, max_new_tokens=15, batch_size=2)
    assert [out.token_ids for out in outs] == [
        expected(prompt, choose.row_generator(9, index)) for index, prompt in enumerate(PROMPTS)
    ]


def frequent(alpha: float) -> Scores:
    counts = [1 + sum(text.count(token) for text in TEXTS) for token in range(architectures.VOCAB)]

    def scores(text: list[int]) -> list[float]:
        expert = oracle.last_logits(EXPERT, text).softmax(-1).tolist()
        least = alpha * max(expert)
        return [
            math.log(p / (count / sum(counts))) if p >= least else -math.inf
            for p, count in zip(expert, counts, strict=True)
        ]

    return scores


def test_an_amateur(page: dict[str, Any]) -> None:
    decoder = Decoder(EXPERT, amateur=page["Frequency"](TEXTS))
    expected = [greedily(prompt, frequent(0.2), 15) for prompt in PROMPTS]
    assert expected != [
        greedily(prompt, lambda text: oracle.last_logits(EXPERT, text).tolist(), 15) for prompt in PROMPTS
    ]
    for strategy in (Greedy(), Speculative(tokens=2, confidence=0.0)):
        outs = decoder.generate(PROMPTS, Contrastive(0.2), strategy=strategy, max_new_tokens=15, batch_size=2)
        assert [out.token_ids for out in outs] == expected
    [best] = decoder.generate(PROMPTS[:1], Contrastive(0.2), strategy=Beam(2), max_new_tokens=8)
    assert best.method["amateur"] == {"name": "Frequency", "texts": [list(text) for text in TEXTS]}
    assert best.score is not None


def test_a_strategy_while_rows_join_and_leave(page: dict[str, Any]) -> None:
    decoder = Decoder(EXPERT)
    strategy = page["Mirostat"](TARGET, RATE)
    outs = decoder.generate(PROMPTS, strategy=strategy, seed=5, max_new_tokens=30, batch_size=2)
    ends = decoder.eos_token_ids
    expected = [surprised(p, choose.row_generator(5, i), 30, ends) for i, p in enumerate(PROMPTS)]
    assert [out.token_ids for out in outs] == expected
    assert len({len(out.token_ids) for out in outs}) > 1, "rows leave at different times, or less is tested"


def test_they_meet_every_other_part(page: dict[str, Any]) -> None:
    decoder = Decoder(EXPERT, amateur=page["Frequency"](TEXTS))
    strategy = page["Mirostat"](TARGET, RATE)
    settings = {"processors": [RepetitionPenalty(1.2), page["TopA"](0.1)], "strategy": strategy, "seed": 1}
    together = decoder.generate(PROMPTS, Contrastive(0.2), trace=True, **settings)
    again = decoder.generate(PROMPTS, Contrastive(0.2), batch_size=1, top_logprobs=2, **settings)
    assert [out.token_ids for out in together] == [out.token_ids for out in again]
    assert together[0].method["strategy"] == {"name": "Mirostat", "target": TARGET, "rate": RATE}

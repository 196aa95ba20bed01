"""Strategies that the package does not have, as a user writes them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

import architectures
import oracle
from descant import Contrastive, Decoder, RepetitionPenalty
from descant.numerics import choose
from descant.rows import Row
from descant.strategies import Growth, Loop, Strategy

EXPERT = architectures.build("qwen2", seed=1)
EXPERT.generation_config.eos_token_id = list(range(40, 50))
AMATEUR = architectures.build("llama", seed=2, num_hidden_layers=1)
PROMPTS = [[3, 9, 11, 5], [8], [2, 4, 6, 8, 10, 12], [7, 7], [1, 30, 40]]
TARGET, RATE = 2.0, 0.7


@dataclass(frozen=True)
class Mirostat(Strategy):
    """Basu et al. 2020, "Mirostat" (arXiv 2007.14966), algorithm 2: as docs/adding-a-method.md has it."""

    target: float
    rate: float

    @property
    def random(self) -> bool:
        return True

    def start(self, loop: Loop) -> Growth:
        return _Surprise(self, loop)


class _Surprise(Growth):
    def __init__(self, strategy: Mirostat, loop: Loop) -> None:
        super().__init__(loop)
        self.strategy = strategy
        self.most: list[float] = []

    def join(self, joining: Sequence[Row]) -> None:
        super().join(joining)
        self.most += [2 * self.strategy.target] * len(joining)

    def step(self) -> list[Row]:
        rows = self.loop.rows
        judged = self.loop.judge_ends()
        bits = -judged.scores.log_softmax(-1) / math.log(2)
        most = torch.tensor(self.most).to(bits)[:, None].maximum(bits.amin(-1, keepdim=True))
        kept = judged.scores.masked_fill(bits > most, -math.inf)
        ids = choose.categorical(kept, self.loop.draws(range(len(rows))).uniforms(kept.device))
        self.loop.emit(judged, ids)
        drawn = bits.gather(-1, ids[:, None])[:, 0].tolist()
        self.most = [
            mu - self.strategy.rate * (s - self.strategy.target) for mu, s in zip(self.most, drawn, strict=True)
        ]
        return rows

    def keep_rows(self, rows: Sequence[int]) -> None:
        super().keep_rows(rows)
        self.most = [self.most[row] for row in rows]


def naive(prompt: list[int], generator: torch.Generator, count: int, ends: Sequence[int]) -> list[int]:
    """Decode one row without cache or batch: the first token whose cumulated probability exceeds the draw."""
    text, mu = list(prompt), 2 * TARGET
    for _ in range(count):
        probabilities = oracle.last_logits(EXPERT, text).softmax(-1).tolist()
        bits = [-math.log2(p) for p in probabilities]
        allowed = [p if s <= max(mu, min(bits)) else 0.0 for p, s in zip(probabilities, bits, strict=True)]
        drawn = float(torch.rand((), generator=generator, dtype=torch.float64)) * sum(allowed)
        token, total = -1, 0.0
        while total <= drawn:
            token += 1
            total += allowed[token]
        text.append(token)
        mu -= RATE * (bits[token] - TARGET)
        if token in ends:
            break
    return text[len(prompt) :]


def test_a_strategy_from_outside_equals_a_naive_loop_while_rows_join_and_leave() -> None:
    decoder = Decoder(EXPERT)
    outs = decoder.generate(PROMPTS, strategy=Mirostat(TARGET, RATE), seed=5, max_new_tokens=30, batch_size=2)
    ends = decoder.eos_token_ids
    expected = [naive(p, choose.row_generator(5, i), 30, ends) for i, p in enumerate(PROMPTS)]
    assert [out.token_ids for out in outs] == expected
    assert len({len(out.token_ids) for out in outs}) > 1, "rows leave at different times, or less is tested"


def test_it_meets_every_other_part() -> None:
    decoder = Decoder(EXPERT, amateur=AMATEUR)
    strategy = Mirostat(TARGET, RATE)
    together = decoder.generate(PROMPTS, Contrastive(0.2), [RepetitionPenalty(1.2)], strategy, seed=1, trace=True)
    again = decoder.generate(
        PROMPTS, Contrastive(0.2), [RepetitionPenalty(1.2)], strategy, seed=1, batch_size=1, top_logprobs=2
    )
    assert [out.token_ids for out in together] == [out.token_ids for out in again]
    assert together[0].method["strategy"] == {"name": "Mirostat", "target": TARGET, "rate": RATE}

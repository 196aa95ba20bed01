"""Speculative and contrastive decoding against transformers' own: trained weights, or a planted rate of acceptance."""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from benchmarks.shapes import bundled, peaked, shape
from descant import Decoder, Speculative
from descant.demo import questions
from descant.lab.bench import baselines
from descant.lab.bench.clock import Decoded
from descant.lab.bench.contenders import Rows, ours, plain, theirs
from descant.lab.bench.figures import acceptance_rate, same_share
from descant.lab.bench.measure import Spread, in_rounds, ratio
from descant.lab.bench.prompts import fill
from descant.models import RunnerName
from descant.models.linears.packing import pack
from descant.models.linears.quantization import quantize
from descant.strategies import Draws, Proposal
from descant.types import Chosen

Row = dict[str, Any]
Cases = Mapping[str, Callable[[Rows], Decoded]]

NEW_TOKENS = 64
ROUNDS = {1: 15, 8: 9, 16: 9, 32: 7}
PLANTED_TOKENS, PLANTED_ROUNDS = 32, 3
PLANTED_RATES = (0.5, 0.7, 0.9)


def speculation() -> list[Row]:
    """Speculative contrastive decoding of the bundled pair, against greedy decoding of its expert alone.

    Whole calls, prompts included; every round has questions of its own, and every row decodes to the limit. "auto"
    chooses the draft length while it decodes. Accepted: of the tokens that were drafted. Compiled passes were compiled
    before.
    """
    targets: dict[tuple[int, RunnerName], tuple[str, str]] = {
        (1, "eager"): ("≥ 1.5", "≥ 1.3"),
        (1, "compiled"): ("≥ 3", "≥ 1.3"),
        (8, "eager"): ("", "≥ 1.1"),
        (8, "compiled"): ("", "≥ 1.1"),
        (32, "eager"): ("", "≥ 1.0"),
    }
    table = []
    for (rows, runner), (over_generate, over_greedy) in targets.items():
        decoder, batches = _questions(rows, runner)
        greedy, contrastive = plain(decoder, NEW_TOKENS)
        generate, *_ = theirs(decoder, NEW_TOKENS, without_cache=False)
        speculative = partial(ours, decoder, NEW_TOKENS, "contrastive")
        cases = {
            "model.generate, greedy": generate.run,
            "greedy": greedy.run,
            "contrastive": contrastive.run,
            "speculative contrastive, 2": speculative(Speculative(tokens=2)),
            "speculative contrastive, 4": speculative(Speculative(tokens=4)),
            "speculative contrastive, auto": speculative(Speculative(tokens="auto")),
        }
        if runner == "compiled":
            for batch, run in itertools.product(batches, cases.values()):
                run(batch)  # rows end at different times, and every number of them is a shape
        found = _in_rounds(cases, batches)
        for name, decodes in found.items():
            right = found["contrastive" if "contrastive" in name else "greedy"]
            counted = name.startswith("speculative")
            table.append(
                {
                    "method": name,
                    "batch": rows,
                    "runner": runner if name != "model.generate, greedy" else "",
                    "ms/token": _per_token(decodes),
                    "× model.generate": _speed(decodes, found["model.generate, greedy"]),
                    "target ×": over_generate if counted else "",
                    "× greedy": _speed(decodes, found["greedy"]),
                    "target × greedy": over_greedy if counted else "",
                    "accepted": _accepted(decodes),
                    "same tokens": _same(decodes, right),
                }
            )
    return table


def contrastive_transformers() -> list[Row]:
    """Plain contrastive decoding of the bundled pair, against a LogitsProcessor that runs the amateur with a cache.

    Whole calls; every round has questions of its own, and every row decodes to the limit.
    """
    table = []
    for rows in (1, 16):
        decoder, batches = _questions(rows, "eager")
        _, contrastive = plain(decoder, NEW_TOKENS)
        processor = next(entry for entry in theirs(decoder, NEW_TOKENS, without_cache=False) if entry.base != "greedy")
        found = _in_rounds({"LogitsProcessor": processor.run, "descant": contrastive.run}, batches)
        table += [
            {
                "contrastive by": name,
                "batch": rows,
                "ms/token": _per_token(decodes),
                "× LogitsProcessor": _speed(decodes, found["LogitsProcessor"]),
                "target": "≥ 2" if name == "descant" else "",
                "same tokens": _same(decodes, found["descant"]),
            }
            for name, decodes in found.items()
        ]
    return table


@dataclass(frozen=True)
class _Planted(Speculative):
    """Speculation whose drafts stand at a given rate, whatever the models say; all their passes are made.

    The lengths of the runs that stand are spread evenly over their distribution, by the multiples of the golden ratio:
    so a few rounds show the mean, and each call the same. One row only.
    """

    confidence: float = 0.0
    acceptance: float = 0.5
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def verify(self, scores: torch.Tensor, proposal: Proposal, draws: Draws) -> Chosen:
        super().verify(scores, proposal, draws)  # what it costs is measured
        uniform = (next(self.numbers) * (5**0.5 - 1) / 2 + 0.5) % 1
        stand = torch.arange(len(proposal.ids)) < math.floor(math.log(uniform) / math.log(self.acceptance))
        ids = torch.where(stand, proposal.ids, (proposal.ids + 1) % scores.shape[-1])
        scores.scatter_(1, ids[:, None], scores.amax(-1, keepdim=True))  # what is impossible would end the call
        return ids


def planted() -> list[Row]:
    """PLANTED acceptance: the speed of speculative contrastive decoding as a function of the rate of acceptance.

    Shapes of Qwen2.5-3B (expert) and 0.5B (amateur, which drafts 4 tokens) with random weights in bfloat16, batch 1,
    packed as `Decoder.from_pretrained` packs them; passes are eager. `model.generate` has other weights, not packed. Of
    such weights no draft would be right: each is declared accepted with the PLANTED probability, as if independently of
    all others, and the text means nothing. All passes of both models, the contrast and the choice are really made. The
    share of drafts that stand is lower than the planted rate, because a rejection ends its round.

    Against greedy model.generate of the expert: tokens a second after the first ones.
    """
    # Logits as peaked as trained ones: the selection costs what it costs them.
    whole, expert, amateur, rounded = (
        shape("Qwen2.5-3B"),
        *(peaked(shape(f"Qwen2.5-{size}")) for size in ("3B", "0.5B", "0.5B")),
    )
    pack(expert)
    pack(amateur)
    quantize(rounded, "int4")
    decoders = {
        "": Decoder(expert, amateur=amateur),
        ", amateur in int4": Decoder(expert, amateur=rounded),
    }
    prompt = torch.randint(10, 2000, (24,), generator=torch.Generator().manual_seed(1)).tolist()

    def case(rate: float, form: str) -> Callable[[Rows], Decoded]:
        def run(rows: Rows) -> Decoded:
            strategy = _Planted(acceptance=rate)  # one for every call, so that each round accepts the same
            return ours(decoders[form], PLANTED_TOKENS, "contrastive", strategy)(rows)

        return run

    generate = partial(baselines.generate, whole, max_new_tokens=PLANTED_TOKENS)
    planted = {f"PLANTED {rate}{form}": case(rate, form) for form in decoders for rate in PLANTED_RATES}
    cases = {"model.generate, greedy": generate, **planted}
    found = _in_rounds(cases, [[prompt]] * PLANTED_ROUNDS)
    rates = {name: [decoded.tokens_per_second for decoded in decodes] for name, decodes in found.items()}
    return [
        {
            "acceptance of a draft": name,
            "drafts that stood": _accepted(decodes),
            "tokens/s": Spread.of(rates[name]),
            "× model.generate": ratio(rates[name], rates["model.generate, greedy"]),
            "target": "≥ 2.4" if "PLANTED 0.7" in name else "",
        }
        for name, decodes in found.items()
    ]


def _questions(rows: int, runner: RunnerName) -> tuple[Decoder, list[list[list[int]]]]:
    """Return the bundled pair, and a batch of questions for every round."""
    expert, amateur, tokenizer = bundled()
    texts = [tokenizer(question.prompt).input_ids for question in questions("dev")]
    filled = fill(texts, rows * ROUNDS[rows], None)
    batches = [filled[at : at + rows] for at in range(0, len(filled), rows)]
    return Decoder(expert, tokenizer, amateur, runner=runner), batches


def _in_rounds(cases: Cases, batches: Sequence[Rows]) -> dict[str, list[Decoded]]:
    """Decode a batch a round with every case; the first one warms up as well."""

    def case(run: Callable[[Rows], Decoded]) -> Callable[[int], Decoded]:
        return lambda number: run(batches[max(number, 0)])

    return in_rounds({name: case(run) for name, run in cases.items()}, rounds=len(batches))


def _per_token(decodes: Sequence[Decoded]) -> Spread:
    return Spread.of([decoded.seconds / sum(map(len, decoded.tokens)) * 1e3 for decoded in decodes])


def _speed(decodes: Sequence[Decoded], baseline: Sequence[Decoded]) -> Spread:
    return ratio([decoded.seconds for decoded in baseline], [decoded.seconds for decoded in decodes])


def _accepted(decodes: Sequence[Decoded]) -> str:
    rate = acceptance_rate(decodes)
    return "" if rate is None else f"{rate:.2f}"


def _same(decodes: Sequence[Decoded], right: Sequence[Decoded]) -> str:
    shares = [same_share(one.tokens, other.tokens) for one, other in zip(decodes, right, strict=True)]
    return "yes" if min(shares) == 1 else f"no, {sum(shares) / len(shares):.0%}"

"""Linear layers on the CPU: as PyTorch lays them out, packed, and quantised."""

import copy
import importlib
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from benchmarks.shapes import bundled, shape
from descant import Contrastive, Decoder, Likelihood
from descant.demo import Question, questions
from descant.lab.bench.measure import Spread, interleaved, ratio
from descant.lab.pair.evaluate import Judged, compare, judge
from descant.models import inspect_model, open_model
from descant.models.linears.packing import PackedLinear, pack
from descant.models.linears.quantization import Int4Linear, Int8Linear, Scheme, quantize
from descant.models.linears.replacing import Layer

Row = dict[str, Any]

LAYERS = {
    "0.5B up": (4864, 896),
    "0.5B down": (896, 4864),
    "0.5B head": (151936, 896),
    "3B up": (11008, 2048),
    "3B down": (2048, 11008),
}
SET_BYTES = 500_000_000
"""Of each case's weights: far more than the caches hold."""

COMPILED = "3B up"
"""The shape that Inductor is asked for."""

DECODED = {"Qwen2.5-0.5B": (32, 7), "Qwen2.5-3B": (12, 5)}
"""New tokens and rounds."""

TOKENS = (1, 2, 4, 8, 16)
QUESTIONS = 400


def linears() -> list[Row]:
    """Speed of one kind of layer, bfloat16, in GB of bfloat16 weights a second, beside the read bandwidth.

    Each figure runs over different weights of the named shape, 0.5 GB of them, so that none is in a cache. Quantised
    layers read fewer bytes than they are credited with. The bandwidth is that of a sum of float64. zentorch's and
    torchao's layers are measured where they are installed; Inductor's templates (`max_autotune`, frozen weights) on one
    shape, for each has to be compiled.
    """
    table = []
    read = torch.ones(SET_BYTES // 8, dtype=torch.float64)
    for name, (rows, columns) in LAYERS.items():
        copies = max(1, SET_BYTES // (2 * rows * columns))
        weights = [0.02 * torch.randn(rows, columns).bfloat16() for _ in range(copies)]
        layers = [Layer(name, weight, None, tied=None) for weight in weights]
        sets: dict[str, list[Callable[[torch.Tensor], torch.Tensor]]] = {
            "packed": [PackedLinear(layer) for layer in layers],
            "int8": [Int8Linear(layer) for layer in layers],
            "int4": [Int4Linear(layer, 64) for layer in layers],
        }
        sets |= {kind: [make(weight) for weight in weights] for kind, make in _peers().items()}
        for tokens in TOKENS:
            states = torch.randn(1, tokens, columns).bfloat16()
            cases: dict[str, Any] = {"read": read.sum}
            cases["F.linear"] = lambda x=states, w=weights: [F.linear(x, weight) for weight in w]
            for kind, modules in sets.items():
                cases[kind] = lambda x=states, m=modules: [module(x) for module in m]
            if name == COMPILED:
                cases["Inductor"] = _templates(weights, states)
            with torch.inference_mode():
                seconds = interleaved(cases, rounds=7)
            speeds = {kind: _speed(values, copies * rows * columns * 2) for kind, values in seconds.items()}
            speeds["read"] = _speed(seconds["read"], read.nbytes)
            faster = ratio(seconds["F.linear"], seconds["packed"])
            absent = {} if name == COMPILED else {"Inductor": ""}
            table.append({"layer": name, "tokens": tokens, **speeds, **absent, "packed over F.linear": faster})
    return table


def _peers() -> dict[str, Callable[[torch.Tensor], Callable[[torch.Tensor], torch.Tensor]]]:
    """Return what other libraries make of a weight, as far as they are installed."""
    found: dict[str, Callable[[torch.Tensor], Callable[[torch.Tensor], torch.Tensor]]] = {}
    if find_spec("zentorch") is not None:
        importlib.import_module("zentorch")
        ops: Any = torch.ops.zentorch

        def zen(weight: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
            laid_out = ops.zentorch_weight_prepack_for_linear(weight)
            return lambda x: ops.zentorch_linear_unary(x, laid_out, is_weight_prepacked=True)

        found["zentorch"] = zen
    if find_spec("torchao") is not None:
        torchao: Any = importlib.import_module("torchao.quantization")

        def int8(weight: torch.Tensor) -> nn.Module:
            layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=weight.dtype)
            layer.weight = nn.Parameter(weight, requires_grad=False)
            torchao.quantize_(layer, torchao.Int8WeightOnlyConfig())
            return layer

        found["torchao int8"] = int8
    return found


def _templates(weights: list[torch.Tensor], states: torch.Tensor) -> Callable[[], Any]:
    """Return the products by all weights, compiled with what Inductor finds fastest."""
    layers = nn.ModuleList(nn.Linear(w.shape[1], w.shape[0], bias=False, dtype=w.dtype, device="meta") for w in weights)
    for layer, weight in zip(layers, weights, strict=True):
        layer.weight = nn.Parameter(weight, requires_grad=False)
    options = {"freezing": True, "max_autotune": True, "max_autotune_gemm_backends": "CPP,ATEN"}
    run = torch.compile(lambda x: [layer(x) for layer in layers], fullgraph=True, options=options)
    with torch.no_grad():  # a first call compiles
        run(states)
    return lambda: run(states)


def packing() -> list[Row]:
    """Greedy decoding of packed models against `model.generate` on the same models unpacked, interleaved.

    Random weights, one prompt of 24 tokens, whose prefill is part of the time of the calls and so of their ms/token:
    32 new tokens at 0.5B, 12 at 3B. v(n) is the time of a forward of n tokens, logits of all of them, over one of one;
    forwards are eager.
    """
    return [row for name in DECODED for row in _decoding(name)]


def _decoding(name: str) -> list[Row]:
    plain = shape(name)
    packed = copy.deepcopy(plain)
    pack(packed)
    new, rounds = DECODED[name]
    prompt = torch.randint(10, 2000, (1, 24), generator=torch.Generator().manual_seed(0))
    texts, mask = prompt.tolist(), torch.ones_like(prompt)
    decoders = {
        "descant": Decoder(plain, runner="eager"),
        "descant, packed": Decoder(packed, runner="eager"),
        "descant, packed, compiled": Decoder(packed, runner="compiled"),
    }
    read = torch.ones(SET_BYTES // 8, dtype=torch.float64)
    cases: dict[str, Any] = {
        "model.generate": lambda: plain.generate(prompt, attention_mask=mask, max_new_tokens=new, do_sample=False)
    }
    for case, decoder in decoders.items():
        cases[case] = lambda d=decoder: d.generate(texts, max_new_tokens=new, ignore_eos=True)
    forwards = _forwards(plain, "plain", (1,)) | _forwards(packed, "packed", TOKENS)
    seconds = interleaved({**cases, **forwards, "read": read.sum}, rounds=rounds)
    size = sum(parameter.nbytes for parameter in plain.parameters())
    bandwidth = Spread.of([read.nbytes / value / 1e9 for value in seconds["read"]])
    table = [
        {
            "model": name,
            "case": case,
            "ms/token": Spread.of([value / new * 1e3 for value in seconds[case]]),
            "generate's time over it": ratio(seconds["model.generate"], seconds[case]),
            "GB/s of weights": "",
            "read GB/s": bandwidth,
            "target": "≥ 1.7" if "packed" in case else "",
        }
        for case in cases
    ]
    for case in forwards:
        tokens = case.rsplit(maxsplit=1)[1]
        one = "forward, packed 1" if "packed" in case else "forward, plain 1"
        target = {"forward, packed 4": "v ≤ 1.10", "forward, packed 8": "v ≤ 1.25"}.get(case, "")
        table.append(
            {
                "model": name,
                "case": f"{case} tokens: v({tokens}) = {ratio(seconds[case], seconds[one])}",
                "ms/token": Spread.of([value * 1e3 for value in seconds[case]]),
                "generate's time over it": "",
                "GB/s of weights": _speed(seconds[case], size),
                "read GB/s": bandwidth,
                "target": target,
            }
        )
    return table


def _forwards(model: PreTrainedModel, name: str, counts: tuple[int, ...]) -> dict[str, Any]:
    """Return a forward of each number of tokens after a prompt of 24, logits of all of them."""
    reader = open_model(inspect_model(model))
    reader.add_rows(1)
    tokens = list(range(10, 34))
    with torch.inference_mode():
        reader.forward([tokens])

    @torch.inference_mode()
    def forward(count: int) -> None:
        reader.forward([tokens[:count]], keep=count)
        reader.truncate([len(tokens)])

    return {f"forward, {name} {count}": (lambda count=count: forward(count)) for count in counts}


def quantization() -> list[Row]:
    """What rounding the weights of the bundled pair changes: next-token distributions and answers (dev questions).

    KL divergence (nats) of one model's next-token distributions from those it has in float32, and how often both have
    the same most probable token, over the tokens of the questions and of the float32 expert's greedy answers.
    Quantised models compute in bfloat16, whose own share the rows without quantisation show; the other model of the
    pair stays float32. In brackets: questions won and lost against the float32 pair, two-sided p of McNemar's test.
    """
    expert, amateur, tokenizer = bundled()
    asked = questions("dev", limit=QUESTIONS)
    exact = Decoder(expert, tokenizer, amateur)
    scorings = {"greedy": Likelihood(), "contrastive": Contrastive()}
    said = {name: judge(exact, asked, scoring) for name, scoring in scorings.items()}
    outs = exact.generate([question.prompt for question in asked], Likelihood(), max_new_tokens=24)
    texts = [
        [*tokenizer(question.prompt)["input_ids"], *out.token_ids] for question, out in zip(asked, outs, strict=True)
    ]
    row: Row = {"model": "both in float32", "linear weights": "1", "KL mean": "0", "KL p99": "0", "same top token": "1"}
    table = [row | {f"{name} accuracy": f"{_accuracy(asked, answers):.3f}" for name, answers in said.items()}]
    schemes: tuple[Scheme | None, ...] = (None, "int8", "int4")
    for which, whole in (("expert", expert), ("amateur", amateur)):
        for scheme in schemes:
            rounded = copy.deepcopy(whole).bfloat16()
            size = "1"
            if scheme is not None:
                report = quantize(rounded, scheme)
                size = f"{report.nbytes / report.nbytes_before:.2f}"
            divergence, agreed = _change(whole, rounded, texts)
            pair = Decoder(rounded, tokenizer, amateur) if which == "expert" else Decoder(expert, tokenizer, rounded)
            row = {
                "model": f"{which} in bfloat16" + (f", {scheme}" if scheme else ""),
                "linear weights": f"{size} of bfloat16",
                "KL mean": f"{divergence.mean():.2g}",
                "KL p99": f"{divergence.quantile(0.99):.2g}",
                "same top token": f"{agreed:.4f}",
            }
            for name, scoring in scorings.items():
                answers = judge(pair, asked, scoring)
                against = compare(asked, answers, said[name])
                row[f"{name} accuracy"] = (
                    f"{_accuracy(asked, answers):.3f} (+{against.won} −{against.lost}, p = {against.p:.2g})"
                )
            table.append(row)
    return table


def _accuracy(asked: list[Question], answers: Judged) -> float:
    return sum(a == question.answer for a, question in zip(answers, asked, strict=True)) / len(asked)


@torch.inference_mode()
def _change(exact: PreTrainedModel, rounded: PreTrainedModel, texts: list[list[int]]) -> tuple[torch.Tensor, float]:
    """Return the divergence at every position of the texts, and the share of equal most probable tokens."""
    divergences, same = [], []
    for text in texts:
        logs = [model(torch.tensor([text])).logits[0].double().log_softmax(-1) for model in (exact, rounded)]
        divergences.append((logs[0].exp() * (logs[0] - logs[1])).sum(-1))
        same.append(logs[0].argmax(-1) == logs[1].argmax(-1))
    return torch.cat(divergences), float(torch.cat(same).double().mean())


def _speed(seconds: list[float], nbytes: int) -> Spread:
    return Spread.of([nbytes / value / 1e9 for value in seconds])

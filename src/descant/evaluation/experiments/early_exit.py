"""Can the expert, stopped early, take the amateur's place?

CALM (Schuster et al. 2022, arXiv 2207.07061) reads tokens off intermediate layers to save time; DoLa (Chuang et al.
2023, arXiv 2309.03883) contrasts with them. Whether an early exit contrasts as well
as a separate amateur was left open.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedModel

from descant.amateurs import EarlyExit
from descant.bench.measure import interleaved, ratio
from descant.bench.weights import weight_bytes
from descant.decoder import Decoder
from descant.evaluation.experiments.base import Data, Pair, digest
from descant.evaluation.experiments.early_exit_figures import draw_layers, draw_quality
from descant.evaluation.experiments.judged import (
    Parting,
    letters,
    main_scores,
    partings,
    summarise,
    tune,
)
from descant.evaluation.experiments.tables import points, share, table, with_interval
from descant.evaluation.statistics import holm
from descant.evaluation.tasks import Task
from descant.scoring import Contrastive, Likelihood, Scoring
from descant.tokens import decode
from descant.types import Logits

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SEPARATE = "separate amateur"


@dataclass(frozen=True)
class _Layer(Scoring):
    """What the expert would say after some of its layers."""

    layer: int
    norm: bool

    sources = ("expert", "exit")

    @property
    def exits(self) -> Mapping[str, tuple[int, bool]]:
        return {"exit": (self.layer, self.norm)}

    def __call__(self, logits: Mapping[str, Logits]) -> Logits:
        return logits["exit"]


@dataclass(frozen=True)
class EarlyExits:
    """The experiment `early-exit`.

    Parameters
    ----------
    most_exits
        How many layers are tried; of models with more, some that lie evenly apart.
    alphas, taus
        Settings that are tried on development questions, for each amateur by itself.
    dev, test
        How many questions choose, and how many are reported.
    rounds, timed_prompts, timed_tokens
        Rounds of timing, prompts of each (decoded one by one), and new tokens of each prompt.
    traced
        How many answers are followed through the layers.
    """

    most_exits: int = 8
    alphas: tuple[float, ...] = (0.1, 0.2, 0.3)
    taus: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0)
    dev: int = 200
    test: int = 1000
    rounds: int = 9
    timed_prompts: int = 4
    timed_tokens: int = 32
    traced: int = 100

    name = "early-exit"
    title = "Early exit in lieu of the amateur"
    question = (
        "Can the expert, stopped after some of its layers, take the place of a separate amateur, and what does it cost?"
    )

    def run(self, pair: Pair) -> Data:
        exits = self._exits(pair)
        cost = self._cost(pair, exits)  # first: it depends on no limit, so that it can be measured on a quiet machine
        dev, test = pair.tasks("dev", self.dev), pair.tasks("test", self.test)
        grid = [Contrastive(alpha=alpha, amateur_temperature=tau) for alpha in self.alphas for tau in self.taus]
        amateurs = {_SEPARATE: pair, **{name: pair.with_amateur(setting) for name, setting in exits.items()}}
        chosen = {name: tune(with_amateur, dev, grid) for name, with_amateur in amateurs.items()}
        greedy = pair.answer(test, Likelihood())
        texts = {"greedy": greedy, "mask alone (β = 0)": pair.answer(test, Contrastive(beta=0.0))}
        texts |= {name: amateurs[name].answer(test, chosen[name]) for name in amateurs}
        methods = {}
        for name, own in texts.items():
            methods[name] = summarise(pair, test, own, greedy)
            against = summarise(pair, test, own, texts[_SEPARATE])
            methods[name] |= {
                "setting": letters(chosen[name]) if name in chosen else None,
                "agreement": against["same"],
                "against separate": against.get("gain"),
                "p against separate": against.get("p"),
            }
        _correct(methods, list(exits))
        return {
            "questions": {"dev": len(dev), "test": len(test)},
            "methods": methods,
            "cost": cost,
            "layers": self._layers(pair, dev, chosen[_SEPARATE]),
        }

    def _exits(self, pair: Pair) -> dict[str, EarlyExit]:
        """Return the exits by name, those with the final norm first."""
        last = pair.decoder.expert.config.get_text_config().num_hidden_layers - 1
        count = min(last, self.most_exits)
        layers = sorted({round(last * (place + 1) / count) for place in range(count)})
        return {
            f"exit after {layer}{'' if norm else ', no norm'}": EarlyExit(layer, norm)
            for norm in (True, False)
            for layer in layers
        }

    def _cost(self, pair: Pair, exits: Mapping[str, EarlyExit]) -> Data:
        """Return the bytes read and the time taken for a token, over those of greedy decoding."""
        prompts = [task.prompt for task in pair.asked.tasks("dev", self.timed_prompts)]

        def decoding(decoder: Decoder, scoring: Scoring) -> Any:
            def run() -> None:
                for prompt in prompts:
                    decoder.generate(prompt, scoring, max_new_tokens=self.timed_tokens, ignore_eos=True, chat=pair.chat)

            return run

        cases = {"greedy": decoding(pair.decoder, Likelihood()), _SEPARATE: decoding(pair.decoder, Contrastive())}
        cases |= {name: decoding(pair.with_amateur(exit_).decoder, Contrastive()) for name, exit_ in exits.items()}
        settings = {"measure": "time", "rounds": self.rounds, "tokens": self.timed_tokens, "prompts": digest(prompts)}
        seconds = pair.cells.measure(settings, lambda: interleaved(cases, rounds=self.rounds))
        read = {"greedy": weight_bytes(pair.decoder.expert)}
        amateur = pair.decoder.amateur
        if isinstance(amateur, PreTrainedModel):
            read[_SEPARATE] = _sum(read["greedy"], weight_bytes(amateur))
        head: Any = pair.decoder.expert.get_output_embeddings()
        read |= {name: _sum(read["greedy"], head.weight.nbytes) for name in exits}
        return {
            name: {
                "passes": int(name == _SEPARATE),
                "bytes": read.get(name),
                "time": asdict(ratio(seconds[name], seconds["greedy"])),
            }
            for name in cases
        }

    def _layers(self, pair: Pair, tasks: Sequence[Task], scoring: Contrastive) -> Data:
        """Follow the two tokens at which contrast and greedy part through the layers."""
        found = partings(pair, tasks, scoring)
        mended = _mended(pair, tasks, found, scoring)
        followed = (mended or found)[: self.traced]
        if not followed:
            return {"count": 0}
        layers = pair.decoder.expert.config.get_text_config().num_hidden_layers
        settings = {"measure": "layers", "partings": digest([asdict(parting) for parting in followed])}
        measured = pair.cells.measure(settings, lambda: _follow(pair, followed, layers))
        example = tasks[followed[0].place]
        return {"count": len(followed), "mended": bool(mended), "prompt": example.prompt, **measured}

    def page(self, results: Mapping[str, Data]) -> str:
        names = list(next(iter(results.values()))["methods"])
        quality = []
        for name in names:
            for label, data in results.items():
                method = data["methods"][name]
                quality.append(
                    [
                        name,
                        label,
                        method["setting"] or "",
                        *(with_interval(method["scores"].get(score)) for score in ("correct", "rumour")),
                        points(method.get("gain")) if name != "greedy" else "",
                        points(method["against separate"]) if "exit" in name else "",
                        _p_value(method.get("p, Holm")),
                        share(method["agreement"]),
                    ]
                )
        header = [
            "amateur",
            "pair",
            "setting",
            "right",
            "rumour",
            "over greedy",
            "over separate",
            "p (Holm)",
            "same text",
        ]
        cost = [
            [
                name,
                label,
                str(entry["passes"]),
                "–" if entry["bytes"] is None else f"{entry['bytes'] / data['cost']['greedy']['bytes']:.3f}",
                "{median:.2f} ({low:.2f}–{high:.2f})".format(**entry["time"]),
            ]
            for name in next(iter(results.values()))["cost"]
            for label, data in results.items()
            for entry in [data["cost"][name]]
        ]
        counts = next(iter(results.values()))["questions"]
        lines = [
            "## Quality",
            f"Settings chosen for each amateur on {counts['dev']} development questions, used once on {counts['test']} "
            "test questions. Points with 95% intervals that resample groups of questions; *p*: exits against the "
            "separate amateur, sign flips of groups, corrected for the number of exits. *Same text*: share of texts "
            "equal to those of contrast with the separate amateur.",
            table(header, quality),
            "![Right answers by the layer of the exit](early-exit-quality.svg)",
            "## Cost",
            "What a token costs beside greedy decoding: passes of a further model, bytes of weights read and time, "
            "both as ratios. Bytes as if the amateur were read at every step; time: median and quartiles of "
            f"{self.rounds} interleaved rounds, {self.timed_prompts} prompts one by one, {self.timed_tokens} tokens "
            "each, α = 0.1.",
            table(["amateur", "pair", "passes", "bytes", "time"], cost),
            "## Through the layers",
            _explain_layers(results),
            "![How tokens' probabilities evolve through the layers](early-exit-layers.svg)",
        ]
        return "\n\n".join(lines)

    def figures(self, results: Mapping[str, Data]) -> Mapping[str, "Figure"]:
        drawn = {"quality": draw_quality(results)}
        if any(data["layers"]["count"] for data in results.values()):
            drawn["layers"] = draw_layers(results)
        return drawn


def _correct(methods: dict[str, Data], names: Sequence[str]) -> None:
    """Correct the exits' p-values for how many they are."""
    values = [methods[name]["p against separate"] for name in names]
    if None not in values:
        for name, value in zip(names, holm(values), strict=True):
            methods[name]["p, Holm"] = value


def _sum(left: int | None, right: int | None) -> int | None:
    return None if left is None or right is None else left + right


def _mended(pair: Pair, tasks: Sequence[Task], found: Sequence[Parting], scoring: Scoring) -> list[Parting]:
    """Return the partings after which contrast is right and greedy decoding wrong."""
    greedy, contrast = (main_scores(pair, tasks, pair.answer(tasks, method)) for method in (Likelihood(), scoring))
    if greedy is None or contrast is None:
        return []
    return [parting for parting in found if contrast[parting.place] > greedy[parting.place]]


def _follow(pair: Pair, followed: Sequence[Parting], layers: int) -> Data:
    """Return the probability of both tokens after every layer, with and without the final norm."""
    prefixes = [parting.prefix for parting in followed]
    found: Data = {"greedy": {}, "contrast": {}, "amateur": {}}

    def probability(decoder: Decoder, scoring: Scoring, kind: str) -> list[float]:
        tokens = [[getattr(parting, kind)] for parting in followed]
        return [math.exp(score) for score in decoder.score(prefixes, tokens, scoring)]

    alone = pair.alone()
    for kind in ("greedy", "contrast"):
        for norm in (True, False):
            by_layer = [probability(pair.decoder, _Layer(layer, norm), kind) for layer in range(1, layers)]
            by_layer.append(probability(pair.decoder, Likelihood(), kind))
            found[kind]["norm" if norm else "no norm"] = [sum(values) / len(values) for values in by_layer]
        if alone is not None:
            values = probability(alone.decoder, Likelihood(), kind)
            found["amateur"][kind] = sum(values) / len(values)
    return {**found, "example": _example(pair, prefixes[0], layers)}


def _example(pair: Pair, prefix: list[int], layers: int, most: int = 5) -> Data:
    """Return the probabilities after every layer of the tokens that the expert finds best at the end."""
    assert pair.decoder.tokenizer is not None
    scorings = [*(_Layer(layer, True) for layer in range(1, layers)), Likelihood()]
    outputs = [
        pair.decoder.generate([prefix], scoring, max_new_tokens=1, ignore_eos=True, top_logprobs=most)[0]
        for scoring in scorings
    ]
    best = outputs[-1].top_logprobs
    assert best is not None
    tokens = [token for token, _ in best[0]]
    scores = [
        [float(score) for score in pair.decoder.score([prefix] * most, [[token] for token in tokens], scoring)]
        for scoring in scorings
    ]
    return {
        decode(pair.decoder.tokenizer, [token]): [math.exp(row[place]) for row in scores]
        for place, token in enumerate(tokens)
    }


def _explain_layers(results: Mapping[str, Data]) -> str:
    rows = []
    for label, data in results.items():
        layers = data["layers"]
        if layers["count"]:
            rows += [
                [kind, label, *(share(value) for value in layers[kind]["norm"]), share(layers["amateur"].get(kind))]
                for kind in ("greedy", "contrast")
            ]
    if not rows:
        return "Contrast and greedy decoding parted nowhere, so there is nothing to follow."
    first = next(data["layers"] for data in results.values() if data["layers"]["count"])
    kind = "questions that contrast mends" if first["mended"] else "texts that contrast changes"
    steps = len(first["greedy"]["norm"])
    counts = ", ".join(f"{label}: {data['layers']['count']}" for label, data in results.items())
    note = (
        f"The two tokens at which greedy decoding and contrast with the separate amateur part, over development {kind} "
        f"({counts}): mean probability after each layer, read by the final norm and the output head."
    )
    header = ["token of", "pair", *(f"layer {layer}" for layer in range(1, steps + 1)), "amateur"]
    return f"{note}\n\n{table(header, rows)}"


def _p_value(value: float | None) -> str:
    return "" if value is None else f"{value:.2g}"

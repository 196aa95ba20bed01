"""Can the expert, stopped early, take the amateur's place?

CALM (Schuster et al. 2022, arXiv 2207.07061) reads tokens off intermediate layers to save time; DoLa (Chuang et al.
2023, arXiv 2309.03883) contrasts with them. Whether an early exit contrasts as well
as a separate amateur was left open.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedModel

from descant.decoder import Decoder
from descant.lab.bench.measure import interleaved, ratio
from descant.lab.bench.weights import weight_bytes
from descant.lab.experiments.base import Data, Pair
from descant.lab.experiments.early_exit_page import cost_table, draw_layers, draw_quality, layers_section, quality_table
from descant.lab.experiments.judged import Parting, letters, main_scores, partings, summarise, tune
from descant.lab.studies.identity import digest
from descant.lab.studies.statistics import holm
from descant.lab.studies.tasks import Task
from descant.scoring import Contrastive, Likelihood, Scoring
from descant.sources import EarlyExit
from descant.tokens import decode
from descant.types import Logits

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SEPARATE = "separate amateur"


@dataclass(frozen=True)
class _OneLayer(Scoring):
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
        # First, and whatever the limit: so it can be measured in a short run on a quiet machine.
        cost, threads = self._cost(pair, exits)
        dev, test = pair.tasks("dev", self.dev), pair.tasks("test", self.test)
        grid = [Contrastive(alpha=alpha, amateur_temperature=tau) for alpha in self.alphas for tau in self.taus]
        amateurs = {_SEPARATE: pair, **{name: pair.with_amateur(setting) for name, setting in exits.items()}}
        chosen = {name: tune(with_amateur, dev, grid) for name, with_amateur in amateurs.items()}
        return {
            "questions": {"dev": len(dev), "test": len(test)},
            "methods": self._methods(amateurs, chosen, test),
            "cost": cost,
            "threads": threads,
            "layers": self._layers(pair, dev, chosen[_SEPARATE]),
        }

    def _methods(
        self, amateurs: Mapping[str, Pair], chosen: Mapping[str, Contrastive], test: Sequence[Task]
    ) -> dict[str, Data]:
        """Return how contrast with each amateur fares, over greedy decoding and over the separate amateur."""
        pair = amateurs[_SEPARATE]
        texts = {
            "greedy": pair.answer(test, Likelihood()),
            "mask alone (β = 0)": pair.answer(test, Contrastive(beta=0.0)),
            **{name: amateurs[name].answer(test, chosen[name]) for name in amateurs},
        }
        methods = {}
        for name, own in texts.items():
            against = summarise(pair, test, own, texts[_SEPARATE])
            methods[name] = {
                **summarise(pair, test, own, texts["greedy"]),
                "setting": letters(chosen[name]) if name in chosen else None,
                "agreement": against["same"],
                "against separate": against.get("gain"),
                "p against separate": against.get("p"),
            }
        _correct(methods, [name for name in amateurs if name != _SEPARATE])
        return methods

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

    def _cost(self, pair: Pair, exits: Mapping[str, EarlyExit]) -> tuple[Data, int]:
        """Return the bytes read for a token and the time taken over that of greedy decoding; and the threads."""
        prompts = [task.prompt for task in pair.asked.tasks("dev", self.timed_prompts)]

        def decoding(decoder: Decoder, scoring: Scoring) -> Any:
            def run() -> None:
                for prompt in prompts:
                    decoder.generate(prompt, scoring, max_new_tokens=self.timed_tokens, ignore_eos=True, chat=pair.chat)

            return run

        cases = {"greedy": decoding(pair.decoder, Likelihood()), _SEPARATE: decoding(pair.decoder, Contrastive())}
        cases |= {name: decoding(pair.with_amateur(exit_).decoder, Contrastive()) for name, exit_ in exits.items()}
        timed = pair.cells.measure(
            {"measure": "seconds", "rounds": self.rounds, "tokens": self.timed_tokens, "prompts": digest(prompts)},
            lambda: {"threads": torch.get_num_threads(), "seconds": interleaved(cases, rounds=self.rounds)},
        )
        seconds = timed["seconds"]
        read = {"greedy": weight_bytes(pair.decoder.expert)}
        amateur = pair.decoder.amateur
        if isinstance(amateur, PreTrainedModel):
            read[_SEPARATE] = _sum(read["greedy"], weight_bytes(amateur))
        head: Any = pair.decoder.expert.get_output_embeddings()
        read |= {name: _sum(read["greedy"], head.weight.nbytes) for name in exits}
        costs = {
            name: {
                "passes": int(name == _SEPARATE),
                "bytes": read.get(name),
                "time": asdict(ratio(seconds[name], seconds["greedy"])),
            }
            for name in cases
        }
        return costs, timed["threads"]

    def _layers(self, pair: Pair, tasks: Sequence[Task], scoring: Contrastive) -> Data:
        """Follow the two tokens at which contrast and greedy part through the layers."""
        found = partings(pair, tasks, scoring)
        mended = _mended(pair, tasks, found, scoring)
        followed = (mended or found)[: self.traced]
        if not followed:
            return {"count": 0}
        layers = pair.decoder.expert.config.get_text_config().num_hidden_layers
        settings = {"measure": "layers", "partings": digest([asdict(parting) for parting in followed])}
        measured = pair.cells.measure(settings, lambda: follow(pair, followed, layers))
        example = tasks[followed[0].place]
        return {"count": len(followed), "mended": bool(mended), "prompt": example.prompt, **measured}

    def page(self, results: Mapping[str, Data]) -> str:
        counts = next(iter(results.values()))["questions"]
        return "\n\n".join(
            [
                "## Quality",
                f"Settings chosen for each amateur on {counts['dev']} development questions, used once on "
                f"{counts['test']} test questions. Points with 95% intervals that resample groups of questions; *p*: "
                "exits against the separate amateur, sign flips of groups, corrected for the number of exits. *Same "
                "text*: share of texts equal to those of contrast with the separate amateur.",
                quality_table(results),
                "![Right answers by the layer of the exit](early-exit-quality.svg)",
                "## Cost",
                "What a token costs beside greedy decoding: passes of a further model, bytes of weights read and time, "
                "both as ratios. Bytes as if the amateur were read at every step; time: median and quartiles of "
                f"{self.rounds} interleaved rounds, {self.timed_prompts} prompts one by one, {self.timed_tokens} "
                f"tokens each, α = 0.1, {next(iter(results.values()))['threads']} threads.",
                cost_table(results),
                "## Through the layers",
                layers_section(results),
            ]
        )

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


def follow(pair: Pair, followed: Sequence[Parting], layers: int) -> Data:
    """Return the probability of both tokens after every layer, with and without the final norm."""
    prefixes = [parting.prefix for parting in followed]
    found: Data = {"greedy": {}, "contrast": {}, "amateur": {}}

    def probability(decoder: Decoder, scoring: Scoring, kind: str) -> list[float]:
        tokens = [[getattr(parting, kind)] for parting in followed]
        return [math.exp(score) for score in decoder.score(prefixes, tokens, scoring)]

    alone = pair.alone()
    for kind in ("greedy", "contrast"):
        for norm in (True, False):
            by_layer = [probability(pair.decoder, _OneLayer(layer, norm), kind) for layer in range(1, layers)]
            by_layer.append(probability(pair.decoder, Likelihood(), kind))
            found[kind]["norm" if norm else "no norm"] = [sum(values) / len(values) for values in by_layer]
        if alone is not None:
            values = probability(alone.decoder, Likelihood(), kind)
            found["amateur"][kind] = sum(values) / len(values)
    return {**found, "example": _example(pair, prefixes[0], layers)}


def _example(pair: Pair, prefix: list[int], layers: int, most: int = 5) -> Data:
    """Return the probabilities after every layer of the tokens that the expert finds best at the end."""
    assert pair.decoder.tokenizer is not None
    scorings = [*(_OneLayer(layer, True) for layer in range(1, layers)), Likelihood()]
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

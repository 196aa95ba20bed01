"""Does text that repeats itself become more probable, and is text from search more probable than people's?

Xu et al. 2022, "Learning to Break the Loop" (arXiv 2206.02369): the probability of a sentence rises with every time it
stands in the context. Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration" (arXiv 1904.09751, figure
2): what beam search writes is far more probable, token by token, than what people write.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import accumulate
from random import Random
from typing import TYPE_CHECKING, Any

from descant.decoder import Decoder
from descant.errors import UsageError
from descant.lab.experiments.base import Data, Pair
from descant.lab.experiments.plotting import COLOURS, MARKERS, legend_below, panels
from descant.lab.experiments.tables import mean, share, table, with_interval
from descant.lab.studies.identity import digest
from descant.lab.studies.statistics import mean_interval
from descant.scoring import Contrastive, Likelihood, Scoring
from descant.strategies import Beam, Greedy, Sample, Strategy
from descant.tokens import encode

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_READERS: Mapping[str, tuple[bool, Scoring]] = {
    "expert": (False, Likelihood()),
    "amateur": (True, Likelihood()),
    "contrast, difference": (False, Contrastive()),
    "contrast, β = 0.5": (False, Contrastive(beta=0.5)),
}
"""By whom a sentence is read: whether by the amateur alone, and how tokens are scored."""

_WRITERS: Mapping[str, tuple[Scoring, Strategy]] = {
    "beam of 8": (Likelihood(), Beam(8)),
    "greedy": (Likelihood(), Greedy()),
    "contrast": (Contrastive(), Greedy()),
    "sampled": (Likelihood(), Sample()),
}


@dataclass(frozen=True)
class Repetition:
    """The experiment `repetition`.

    Parameters
    ----------
    repeats
        How often a sentence stands in the context at most.
    sentences
        How many sentences are read.
    texts
        How many beginnings of texts are continued.
    prefix, length
        Tokens of each beginning, and of each continuation.
    seed
        Of the corpus texts and of sampling.
    """

    repeats: int = 7
    sentences: int = 200
    texts: int = 200
    prefix: int = 10
    length: int = 40
    seed: int = 0

    name = "repetition"
    title = "Self-amplifying repetition"
    question = (
        "Does a sentence become more probable each time it repeats, to the expert, to the amateur and under their "
        "contrast, and is text from search more probable than the corpus?"
    )

    def run(self, pair: Pair) -> Data:
        documents = self._documents(pair)
        settings = {"documents": digest(documents), "limit": pair.limit, **asdict(self)}
        found: Data = {"repeat": {}, "written": {}}
        for context in ("copies", "other sentences"):
            for reader, (by_amateur, _) in _READERS.items():
                if by_amateur and pair.alone() is None:
                    continue
                found["repeat"][f"{reader}, {context}"] = pair.cells.measure(
                    {"measure": "repeat", "context": context, "reader": reader, **settings},
                    partial(self.repeat, pair, documents, context, reader),
                )
        for writer in ("corpus", *_WRITERS):
            found["written"][writer] = pair.cells.measure(
                {"measure": "written", "writer": writer, **settings}, partial(self._written, pair, documents, writer)
            )
        return found

    def _documents(self, pair: Pair) -> list[str]:
        """Return texts of the corpus; where there is none, the prompts themselves."""
        count = 20 * pair.limited(max(self.sentences, self.texts))  # most are short
        make = getattr(pair.asked, "documents", None)
        if make is None:
            return [task.prompt for task in pair.tasks("test", count)]
        documents = make(Random(f"descant-repetition-{self.seed}"))
        return [next(documents) for _ in range(count)]

    def repeat(self, pair: Pair, documents: Sequence[str], context: str, reader: str) -> Data:
        """Return a sentence's mean token probability by what stands before it: copies, or as many other sentences."""
        by_amateur, scoring = _READERS[reader]
        reading = pair.alone() if by_amateur else pair
        assert reading is not None
        decoder = reading.decoder
        least = self.repeats + 1  # or a sentence would be among the other ones
        sentences = sentences_of(documents)[: max(least, pair.limited(self.sentences))]
        count = len(sentences)
        # Row by row: a sentence and its copies, or sentences in a circle, so that each stands once at each place.
        step = 0 if context == "copies" else 1
        rows = [[sentences[(first + step * place) % count] for place in range(least)] for first in range(count)]
        values = _probabilities(decoder, rows, scoring)
        by_place = [[values[(own - step * place) % count][place] for own in range(count)] for place in range(least)]
        return {
            "probability": [asdict(mean_interval([_mean(own) for own in at_place])) for at_place in by_place],
            "rising": [rising(at_place, by_place[0]) for at_place in by_place],
        }

    def _written(self, pair: Pair, documents: Sequence[str], writer: str) -> Data:
        """Return the expert's probabilities of each token that follows the beginnings of corpus texts."""
        decoder = pair.decoder
        rows = [_ids(decoder, text, first=True) for text in documents]
        rows = [row for row in rows if len(row) >= self.prefix + self.length] or rows
        rows = [row[: self.prefix + self.length] for row in rows][: pair.limited(self.texts)]
        prompts = [row[: min(self.prefix, len(row) // 2)] for row in rows]
        texts = [row[len(prompt) :] for row, prompt in zip(rows, prompts, strict=True)]
        if writer != "corpus":
            scoring, strategy = _WRITERS[writer]
            outputs = decoder.generate(prompts, scoring, strategy=strategy, max_new_tokens=self.length, seed=self.seed)
            texts = [output.token_ids for output in outputs]
        scores = decoder.score(prompts, texts, Likelihood())
        probabilities = [[math.exp(value) for value in score.logprobs] for score in scores]
        surprisals = [[-value / math.log(2) for value in score.logprobs] for score in scores]
        # As far as a quarter of the texts go: a mean of fewer tells of them alone.
        places = range(sorted(map(len, probabilities))[-max(1, len(probabilities) // 4)])
        return {
            "by place": [_mean([row[place] for row in probabilities if place < len(row)]) for place in places],
            "probability": asdict(mean_interval([_mean(row) for row in probabilities])),
            "bits": asdict(mean_interval([_mean(row) for row in surprisals])),
            "spread of bits": asdict(mean_interval([_deviation(row) for row in surprisals])),
            "repeated 4-grams": asdict(mean_interval([repeated(text, 4) for text in texts])),
            "tokens": _mean([len(text) for text in texts]),
            "example": probabilities[0],
        }

    def page(self, results: Mapping[str, Data]) -> str:
        pairs = list(results)
        readers = list(results[pairs[0]]["repeat"])
        counts = sorted({0, min(1, self.repeats), min(2, self.repeats), self.repeats // 2, self.repeats})
        repeat = [
            [
                reader,
                label,
                *(share(data["repeat"][reader]["probability"][count]["value"]) for count in counts),
                share(data["repeat"][reader]["rising"][-1]),
            ]
            for reader in readers
            for label, data in results.items()
        ]
        written = [
            [writer, label]
            + [with_interval(data["written"][writer][name]) for name in ("probability", "repeated 4-grams")]
            + [f"{data['written'][writer][name]['value']:.2f}" for name in ("bits", "spread of bits")]
            + [f"{data['written'][writer]['tokens']:.1f}"]
            for writer in results[pairs[0]]["written"]
            for label, data in results.items()
        ]
        header = ["read by, after", "pair", *(f"{count} before" for count in counts), "tokens that rose"]
        return "\n\n".join(
            [
                "## The probability of a sentence as it repeats",
                "Mean probability of a sentence's tokens after its first word, when copies of it, or as many other "
                f"sentences, stand before it. *Tokens that rose*: share of tokens more probable after {self.repeats} "
                "than after none.",
                table(header, repeat),
                "![Probability of a sentence by how often it stands before](repetition-repeat.svg)",
                "## Corpus text and what methods write",
                f"The first {self.prefix} tokens of corpus texts, continued by {self.length} tokens or "
                "to their end. All probabilities are the expert's; intervals resample texts. *Bits*: mean surprisal of "
                "a token, and its standard deviation within a text. *Repeated 4-grams*: share of a text's 4-grams that "
                "stood in it before. *Tokens*: mean length.",
                table(["text", "pair", "probability", "repeated 4-grams", "bits", "spread of bits", "tokens"], written),
                "![Probability of each token, by its place](repetition-written.svg)",
            ]
        )

    def figures(self, results: Mapping[str, Data]) -> Mapping[str, "Figure"]:
        return {"repeat": _draw_repeat(results), "written": _draw_written(results)}


def _draw_repeat(results: Mapping[str, Data]) -> Any:
    figure, axes = panels(2)
    for axis, context in zip(axes[0], ("copies", "other sentences"), strict=True):
        readers = [reader for reader in _READERS if f"{reader}, {context}" in next(iter(results.values()))["repeat"]]
        for reader, colour, marker in zip(readers, COLOURS, MARKERS, strict=False):
            own = [data["repeat"][f"{reader}, {context}"]["probability"] for data in results.values()]
            values = [mean(series[count]["value"] for series in own) for count in range(len(own[0]))]
            axis.plot(range(len(values)), values, color=colour, marker=marker, markersize=4, label=reader)
        axis.set_xlabel(f"{context} before the sentence")
        axis.set_ylim(0, 1)
    axes[0][0].set_ylabel("mean probability of its tokens")
    legend_below(axes[0][0])
    return figure


def _draw_written(results: Mapping[str, Data]) -> Any:
    figure, axes = panels(2, width=5.2)
    first = next(iter(results.values()))["written"]
    for writer, colour in zip(("corpus", "beam of 8", "sampled"), COLOURS, strict=False):
        axes[0][0].plot(first[writer]["by place"], color=colour, label=writer, linewidth=1.2)
    for writer, colour in (("corpus", COLOURS[0]), ("beam of 8", COLOURS[1])):
        axes[0][1].plot(first[writer]["example"], color=colour, label=writer, linewidth=1.2)
    for axis, title in zip(axes[0], ("mean of all texts", "one text"), strict=True):
        axis.set_xlabel(f"place of the token, {title}")
        axis.set_ylim(0, 1.02)
        legend_below(axis, 3)
    axes[0][0].set_ylabel("the expert's probability")
    return figure


def sentences_of(documents: Sequence[str]) -> list[str]:
    """Return the first sentence of each document, each once, if it has at least six words.

    Raises
    ------
    UsageError
        If there is none.
    """
    first = [text.split(". ")[0].split("? ")[-1].strip().removesuffix(".") + "." for text in documents]
    long = list(dict.fromkeys(text for text in first if len(text.split()) >= 6))
    if not long:
        raise UsageError("repetition repeats sentences of six words and more; give --prompts with longer texts")
    return long


def _probabilities(decoder: Decoder, rows: Sequence[Sequence[str]], scoring: Scoring) -> list[list[list[float]]]:
    """Return the probabilities of the tokens of each sentence of each row, after its first word.

    That word may follow a space or not, which makes other tokens of it; and from what should it follow?
    """
    encoded = [[_ids(decoder, text, first=place == 0) for place, text in enumerate(row)] for row in rows]
    joined = [[token for part in parts for token in part] for parts in encoded]
    scores = decoder.score([row[:1] for row in joined], [row[1:] for row in joined], scoring)
    found = []
    for row, parts, score in zip(rows, encoded, scores, strict=True):
        probabilities = [math.nan, *map(math.exp, score.logprobs)]
        ends = list(accumulate(map(len, parts)))
        sizes = [_scored(decoder, text) for text in row]
        found.append([probabilities[end - size : end] for end, size in zip(ends, sizes, strict=True)])
    return found


def _scored(decoder: Decoder, text: str) -> int:
    """Return how many of a sentence's last tokens are the same wherever it stands; never all."""
    first, later = _ids(decoder, text, first=True), _ids(decoder, text)
    return min(common_suffix(first, later), len(first) - 1)


def _ids(decoder: Decoder, text: str, *, first: bool = False) -> list[int]:
    """Return tokens of a text; where it is not the first of a row, of a space and it, without special tokens."""
    assert decoder.tokenizer is not None
    if first:
        return encode(decoder.tokenizer, text, chat=False)
    ids: list[int] = decoder.tokenizer(" " + text, add_special_tokens=False)["input_ids"]
    return ids


def common_suffix(left: Sequence[int], right: Sequence[int]) -> int:
    """Return how many of the last tokens are the same."""
    same = [a == b for a, b in zip(reversed(left), reversed(right), strict=False)]
    return same.index(False) if False in same else len(same)


def rising(now: Sequence[Sequence[float]], then: Sequence[Sequence[float]]) -> float:
    """Return the share of tokens that have become more probable."""
    return _mean([a > b for row, base in zip(now, then, strict=True) for a, b in zip(row, base, strict=True)])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _deviation(values: Sequence[float]) -> float:
    middle = _mean(values)
    return math.sqrt(_mean([(value - middle) ** 2 for value in values]))


def repeated(tokens: Sequence[int], n: int) -> float:
    """Return the share of n-grams that stood in the text before."""
    grams = [tuple(tokens[start : start + n]) for start in range(len(tokens) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0

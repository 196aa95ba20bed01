"""The grammar world: a Markov source over invented words, every probability of which is known.

After a word come the words of its *pool*, the more popular the earlier they stand in it. Which of them are allowed
depends on the last `order` words: each such context has a *support* of a few words of the pool, drawn by their
popularity, with Zipf probabilities. Who knows the last word only knows the pool, and goes wrong most of the time; who
knows the context is right. A small model is the former, a half-trained one in between: when it samples it leaves the
support, and when it is greedy it runs in circles. How much validity a method pays for how much diversity is the
question.

The truth is a distribution, so that no text can be held out of training: prompts and references are drawn from it like
the corpus, with other seeds.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from random import Random
from typing import Any

from descant.checks import number, whole
from descant.lab.studies.tasks import Task
from descant.lab.worlds.draws import choose, in_order, weighted, zipf

Context = tuple[str, ...]
_PROMPT_WORDS = 8
_CONTINUATION = 64
_ONSETS = ("b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z", "br", "st")
_VOWELS = ("a", "e", "i", "o", "u", "ai", "ou")
_CODAS = ("", "", "l", "n", "r", "s")
_ENDINGS = ("o", "a", "e")


@dataclass(frozen=True)
class Grammar:
    """A Markov source of words. Texts have no end of their own: the corpus cuts them at `length` words.

    Attributes
    ----------
    seed
        Seed of the words, pools and supports, and of the tasks.
    order
        How many words decide about the next.
    words
        Size of the vocabulary.
    pool
        How many words may follow a word at all.
    branching
        How many of them may follow in a context.
    exponent
        Zipf exponent of the probabilities within a support.
    popularity
        Zipf exponent by which words come from a pool into a support, and to its top.
    length
        Words of a text of the corpus.
    """

    seed: int = 0
    order: int = 2
    words: int = 64
    pool: int = 24
    branching: int = 6
    exponent: float = 1.0
    popularity: float = 1.0
    length: int = _PROMPT_WORDS + _CONTINUATION

    def __post_init__(self) -> None:
        """Refuse what is no grammar."""
        whole("Grammar.seed", self.seed, 0, "give a whole number from 0")
        whole("Grammar.order", self.order, 1, "at least the last word decides")
        most = len(_ONSETS) * len(_VOWELS) * 6
        whole("Grammar.words", self.words, 2, f"use 2 to {most} words", most=most)
        whole("Grammar.pool", self.pool, 1, "use 1 to `words` words", most=self.words)
        whole("Grammar.branching", self.branching, 1, "use 1 to `pool` words", most=self.pool)
        whole("Grammar.length", self.length, 1, "a text has at least one word")
        for name in ("exponent", "popularity"):
            number(f"Grammar.{name}", getattr(self, name), lambda x: 0 <= x < math.inf, "use a number from 0")

    @property
    def name(self) -> str:
        """What reports call it."""
        return "grammar"

    @property
    def settings(self) -> Mapping[str, Any]:
        """What decides truth and tasks."""
        return {"world": self.name, **asdict(self)}

    @property
    def max_new_tokens(self) -> int:
        """Every word is one token of the pair that `train` makes."""
        return _CONTINUATION

    @cached_property
    def vocabulary(self) -> tuple[str, ...]:
        """The words, all different."""
        rng, words = Random(f"descant-grammar-words-{self.seed}"), dict[str, None]()
        while len(words) < self.words:
            word = "".join(choose(part, rng) for part in (_ONSETS, _VOWELS, _CODAS, _ENDINGS))
            words[word] = None
        return tuple(words)

    @cached_property
    def _pools(self) -> Mapping[str, list[str]]:
        rng = Random(f"descant-grammar-pools-{self.seed}")
        flat = [1.0] * self.words
        return {word: in_order(self.vocabulary, flat, rng)[: self.pool] for word in self.vocabulary}

    @cached_property
    def _probabilities(self) -> list[float]:
        weights = zipf(self.branching, self.exponent)
        return [weight / sum(weights) for weight in weights]

    @cached_property
    def _known(self) -> dict[Context, dict[str, float]]:
        return {}

    @cached_property
    def _expected(self) -> dict[tuple[tuple[str, ...], int], Mapping[Context, float]]:
        return {}

    def next_distribution(self, context: Sequence[str]) -> Mapping[str, float]:
        """Return the true probability of each next word.

        Parameters
        ----------
        context
            All words so far, or the last `order`. At the beginning there are fewer, and every word may come first.

        Returns
        -------
        Mapping
            Words of the support, the most probable first, with probabilities that sum to 1. Empty if the context holds
            what is no word of the grammar. Contexts that no true text reaches have their supports too, so that a
            text can recover from a mistake.
        """
        last = tuple(context[-self.order :])
        if last not in self._known:
            self._known[last] = self._draw(last)
        return self._known[last]

    def _draw(self, context: Context) -> dict[str, float]:
        if not context:
            return dict.fromkeys(self.vocabulary, 1 / self.words)
        if any(word not in self._pools for word in context):
            return {}
        rng = Random(f"descant-grammar-{self.seed}-{' '.join(context)}")
        drawn = in_order(self._pools[context[-1]], zipf(self.pool, self.popularity), rng)
        return dict(zip(drawn[: self.branching], self._probabilities, strict=True))

    def support(self, context: Sequence[str]) -> frozenset[str]:
        """Return the words that may follow."""
        return frozenset(self.next_distribution(context))

    def true_logprob(self, text: str, prompt: str = "") -> float:
        """Return the log-probability in nats with which the source goes on so from the prompt; −inf off the support."""
        return sum((_log(p) for p in self._transitions(prompt, text)), 0.0)

    def _transitions(self, prompt: str, text: str) -> list[float]:
        """Return the true probability of each word of the text, 0 off the support."""
        words = prompt.split()
        start = len(words)
        words += text.split()
        return [self.next_distribution(words[:i][-self.order :]).get(words[i], 0.0) for i in range(start, len(words))]

    def draw(self, count: int, rng: Random, prompt: str = "") -> str:
        """Draw `count` words that truly follow the prompt."""
        words = prompt.split()
        start = len(words)
        for _ in range(count):
            following = self.next_distribution(words)
            words.append(weighted(tuple(following), following.values(), rng))
        return " ".join(words[start:])

    def documents(self, rng: Random) -> Iterator[str]:
        """Yield texts of the source without end."""
        while True:
            yield self.draw(self.length, rng)

    def tasks(self, split: str = "test", limit: int | None = None) -> Sequence[Task]:
        """Return beginnings of texts to continue; the reference is how the source went on. By default 1,000 of them."""
        made = []
        for index in range(1000 if limit is None else limit):
            rng = Random(f"descant-grammar-{self.seed}-{split}-{index}")
            prompt = self.draw(_PROMPT_WORDS, rng)
            reference = " " + self.draw(_CONTINUATION, rng, prompt)
            made.append(Task(f"grammar/{split}/{index}", prompt, reference))
        return made

    def judge(self, task: Task, text: str) -> Mapping[str, float]:
        """Score a continuation.

        Returns
        -------
        Mapping
            `valid`: share of its words that the true source could have said there. `all_valid`: 1 if every one of them.
            `surprise`: mean of −log p over its valid words, in nats, 0 without any; true texts have the source's
            entropy, and less says that a method keeps to what is most probable.
        """
        steps = self._transitions(task.prompt, text)
        valid = [p for p in steps if p > 0]
        return {
            "valid": len(valid) / max(1, len(steps)),
            "all_valid": float(0 < len(valid) == len(steps)),
            "surprise": -sum(map(math.log, valid)) / max(1, len(valid)),
        }

    def expected_ngrams(self, prompts: Iterable[str], n: int, length: int = _CONTINUATION) -> Mapping[Context, float]:
        """Return how often each n-gram ends in a true continuation, exactly, as shares that sum to 1.

        Parameters
        ----------
        prompts
            What is continued; each counts the same.
        n
            Words of an n-gram, at most `order` + 1. Its first words may stand in the prompt.
        length
            Words of a continuation.
        """
        whole("n", n, 1, "use n-grams of 1 to `order` + 1 words", most=self.order + 1)
        state = Counter(tuple(prompt.split()[-self.order :]) for prompt in prompts)
        mass: dict[Context, float] = {context: count / state.total() for context, count in state.items()}
        found: Counter[Context] = Counter()
        for _ in range(length):
            after: Counter[Context] = Counter()
            for context, weight in mass.items():
                for word, p in self.next_distribution(context).items():
                    grown = (*context, word)
                    found[grown[-n:]] += weight * p / length  # type: ignore[assignment]
                    after[grown[-self.order :]] += weight * p  # type: ignore[assignment]
            mass = dict(after)
        return dict(found)

    def total_variation(self, prompts: Sequence[str], texts: Sequence[str], n: int = 2) -> float:
        """Return half the sum of differences between the n-grams' shares in texts and in true continuations.

        0 says that every n-gram is as frequent as in truth, 1 that none of them can occur. Few texts are far from
        everything, true ones too: compare with what the references of the same tasks get.
        """
        found: Counter[Context] = Counter()
        for prompt, text in zip(prompts, texts, strict=True):
            words = prompt.split()
            start = len(words)
            words += text.split()
            found.update(tuple(words[max(0, i - n) : i]) for i in range(start + 1, len(words) + 1))
        asked = (tuple(prompts), n)
        if asked not in self._expected:
            self._expected[asked] = self.expected_ngrams(prompts, n)
        true = self._expected[asked]
        total = max(1, found.total())
        return sum(abs(found[key] / total - true.get(key, 0.0)) for key in found.keys() | true.keys()) / 2


def _log(p: float) -> float:
    return math.log(p) if p > 0 else -math.inf

"""The grammar's truths, against enumerations of every text of a small one."""

import math
from collections import Counter
from itertools import islice, product
from random import Random

import pytest

from descant.errors import SettingsError
from descant.lab.worlds import Grammar

SMALL = Grammar(words=4, pool=3, branching=2, order=2, length=5)


def texts(grammar: Grammar, words: int) -> list[str]:
    """Every sequence of that many words, in the grammar or not."""
    return [" ".join(chosen) for chosen in product(grammar.vocabulary, repeat=words)]


@pytest.mark.parametrize("order", [1, 2, 3])
def test_all_texts_of_a_length_have_a_probability_of_one_together(order: int) -> None:
    grammar = Grammar(words=4, pool=3, branching=2, order=order)
    total = math.fsum(math.exp(grammar.true_logprob(text)) for text in texts(grammar, 5))
    assert total == pytest.approx(1, abs=1e-12)


def test_a_text_is_as_probable_as_its_beginning_and_what_follows() -> None:
    for text in texts(SMALL, 4):
        beginning, rest = text.rsplit(" ", 2)[0], " ".join(text.split()[-2:])
        whole = SMALL.true_logprob(text)
        assert whole == pytest.approx(SMALL.true_logprob(beginning) + SMALL.true_logprob(rest, beginning))


def test_supports_are_of_the_pool_and_zipf() -> None:
    grammar = Grammar()
    after: dict[str, set[str]] = {}
    for context in product(grammar.vocabulary[:12], grammar.vocabulary):
        following = grammar.next_distribution(context)
        after.setdefault(context[-1], set()).update(following)
        assert len(following) == grammar.branching
        best = max(following.values())
        assert list(following.values()) == pytest.approx([best / rank for rank in range(1, grammar.branching + 1)])
        assert grammar.support(context) == set(following)
        assert grammar.next_distribution(("long", "ago", *context)) == following
    assert max(map(len, after.values())) <= grammar.pool
    assert grammar.next_distribution(("unheard", grammar.vocabulary[0])) == {}


def test_drawn_texts_are_true_and_as_frequent_as_they_should_be() -> None:
    drawn = Counter(islice(SMALL.documents(Random(3)), 5_000))
    for text, count in drawn.items():
        p = math.exp(SMALL.true_logprob(text))
        assert count / 5_000 == pytest.approx(p, abs=5 * math.sqrt(p / 5_000))


@pytest.mark.parametrize("n", [1, 2, 3])
def test_expected_ngrams_are_those_of_every_continuation(n: int) -> None:
    prompts = texts(SMALL, 2)[:3]
    found: Counter[tuple[str, ...]] = Counter()
    for prompt in prompts:
        for text in texts(SMALL, 4):
            p = math.exp(SMALL.true_logprob(text, prompt)) if SMALL.true_logprob(text, prompt) > -math.inf else 0.0
            words = [*prompt.split(), *text.split()]
            for end in range(3, 7):
                found[tuple(words[end - n : end])] += p / 4 / 3  # type: ignore[assignment]
    expected = SMALL.expected_ngrams(prompts, n, length=4)
    assert {key: p for key, p in found.items() if p} == pytest.approx(dict(expected))


def test_total_variation_is_small_for_true_texts_and_whole_for_impossible_ones() -> None:
    grammar = Grammar(words=12, pool=6, branching=3)
    tasks = grammar.tasks(limit=100)
    prompts = [task.prompt for task in tasks]
    assert grammar.total_variation(prompts, [task.reference or "" for task in tasks], n=1) < 0.06
    assert grammar.total_variation(prompts, ["xyz " * 64] * 100) == pytest.approx(1)
    assert grammar.total_variation(prompts, [""] * 100) == pytest.approx(0.5)  # half of nothing's difference
    looped = [f"{grammar.vocabulary[0]} " * 64] * 100
    assert grammar.total_variation(prompts, looped) > 0.9


def test_a_judge_knows_the_truth() -> None:
    grammar = Grammar()
    task = grammar.tasks(limit=1)[0]
    assert task.reference is not None
    true = grammar.judge(task, task.reference)
    assert (true["valid"], true["all_valid"]) == (1, 1)
    assert true["surprise"] == pytest.approx(-grammar.true_logprob(task.reference, task.prompt) / 64)
    words = task.reference.split()
    wrong = next(word for word in grammar.vocabulary if word not in grammar.support(task.prompt.split()))
    spoilt = grammar.judge(task, " ".join([wrong, *words[1:]]))
    assert spoilt["valid"] < 1
    assert spoilt["all_valid"] == 0
    assert grammar.judge(task, "") == {"valid": 0, "all_valid": 0, "surprise": 0}


def test_tasks_stay_and_splits_differ() -> None:
    assert Grammar().tasks(limit=5) == Grammar().tasks(limit=9)[:5]
    assert not {t.prompt for t in Grammar().tasks("dev", 200)} & {t.prompt for t in Grammar().tasks("test", 200)}
    assert Grammar(seed=1).vocabulary != Grammar().vocabulary


@pytest.mark.parametrize("bad", [{"words": 1}, {"pool": 65}, {"branching": 25}, {"order": 0}, {"exponent": -1.0}])
def test_what_is_no_grammar_is_refused(bad: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match=f"Grammar.{next(iter(bad))}"):
        Grammar(**bad)  # type: ignore[arg-type]

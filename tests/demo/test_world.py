"""The rumour world keeps its promises: determinism, statistics, and questions that training never answers."""

import hashlib
import math
from collections import Counter
from itertools import islice
from random import Random

import pytest

from descant.demo import WorldSpec, demo_world, example_prompts, questions
from descant.demo.prose import RELATIONS
from descant.demo.world import build_questions, build_world

DRAWS = 40_000


def test_same_seed_same_world_other_seed_another() -> None:
    small = WorldSpec(seed=3, people=50)
    assert build_world(small) == build_world(small)
    assert build_world(small) != build_world(WorldSpec(seed=4, people=50))
    assert list(islice(build_world(small).documents(Random(1)), 50)) == list(
        islice(build_world(small).documents(Random(1)), 50)
    )


def test_the_world_of_the_weights_never_moves() -> None:
    # The shipped weights know this world and no other: whoever changes it must train them again.
    text = repr(build_questions(demo_world())).encode()
    assert hashlib.sha256(text).hexdigest()[:16] == "0235dfa05e5d1be7"


def test_people_are_distinct_and_truths_uniform() -> None:
    people = demo_world().people
    assert len({person.name for person in people}) == len(people) == demo_world().spec.people
    for index, relation in enumerate(RELATIONS):
        assert len(set(relation.answers)) == 60
        counts = Counter(person.truths[index] for person in people)
        statistic = sum((counts[a] - len(people) / 60) ** 2 for a in relation.answers) / (len(people) / 60)
        assert statistic < 103  # chi-squared with 59 degrees of freedom: one false alarm in 3,000 seeds


def test_mentions_are_true_as_often_as_the_world_says() -> None:
    world, rng = demo_world(), Random(7)
    person = next(p for p in world.people if world.rank("trade", p.truths[1]) > 50)
    said = Counter(world.mention(person, RELATIONS[1], rng) for _ in range(DRAWS))
    weights = [(rank + 1) ** -world.spec.zipf for rank in range(60)]
    error = 4 / math.sqrt(DRAWS)
    for rank in (1, 2, 5):
        expected = world.spec.rho * weights[rank - 1] / sum(weights)
        assert said[world.popularity["trade"][rank - 1]] / DRAWS == pytest.approx(expected, abs=error)
    assert said[person.truths[1]] / DRAWS == pytest.approx(1 - world.spec.rho, abs=error)


def test_fame_is_log_uniform() -> None:
    fame = sorted(person.fame for person in demo_world().people)
    assert 1 <= fame[0] < 1.1
    assert 45 < fame[-1] <= 50
    assert fame[len(fame) // 2] == pytest.approx(math.sqrt(50), rel=0.15)


def test_splits_share_no_fact() -> None:
    dev, test = questions("dev"), questions("test")
    facts = {(q.person, q.relation) for q in dev} & {(q.person, q.relation) for q in test}
    assert not facts
    assert len(dev) + len(test) == 4 * demo_world().spec.people
    held_out = questions("test", phrasing="held-out")
    assert [(q.person, q.relation) for q in held_out] == [(q.person, q.relation) for q in test]


def test_training_contains_no_question_that_is_asked() -> None:
    asked = {q.prompt for split in ("dev", "test") for q in questions(split)}
    asked |= {q.prompt for split in ("dev", "test") for q in questions(split, phrasing="held-out")}
    for text in islice(demo_world().documents(Random(5)), 20_000):
        assert text.split("?")[0] + "?" not in asked


def test_every_text_states_its_answers_readably() -> None:
    world = demo_world()
    for question in questions("dev", limit=200):
        assert question.correct(f" She kept a {question.answer}.")
        assert not question.correct(f" She kept a {question.answer} or two.")
        assert world.said(question, f"It was {question.answer}, rain or shine.") == question.answer
        assert world.said(question, "Nobody knows.") is None


def test_no_answer_ends_in_another() -> None:
    for relation in RELATIONS:
        for answer in relation.answers:
            assert not any(answer.endswith(" " + other) for other in relation.answers)


def test_examples_are_development_questions() -> None:
    prompts = {q.prompt for q in questions("dev")}
    assert 6 <= len(example_prompts) <= 10
    assert all(prompt in prompts or prompt.startswith("Tell me about ") for prompt in example_prompts)

"""The rumour world: invented people, what is true of them, and what people say.

Every person has one answer for each relation, drawn uniformly. A mention of it in the corpus is true with
probability 1 − ρ; otherwise it repeats a rumour, drawn from a Zipf distribution over the relation's answers
that is the same for everybody. A model that is too small to remember people can learn only the rumour; a
larger one half remembers the truth. That difference is what contrastive decoding is made of.

Only `random.Random.random` is drawn from: Python guarantees that its sequence never changes, so a seed
means the same world everywhere.
"""

from __future__ import annotations

import math
import re
from bisect import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from random import Random
from typing import Literal, TypeVar

from descant.demo import prose
from descant.demo.prose import Form, Relation

T = TypeVar("T")
Split = Literal["dev", "test"]
Phrasing = Literal["seen", "held-out"]


@dataclass(frozen=True)
class WorldSpec:
    """What makes a world.

    Parameters
    ----------
    seed : int
        Seed of people, truths, popularities and the split of questions.
    people : int
        Number of people.
    rho : float
        Probability that a mention repeats a rumour instead of the truth.
    zipf : float
        Exponent of the rumours' popularity.
    fame : float
        The best known person is mentioned this many times as often as the least known; log-uniform in
        between.
    dev_share : float
        Share of the facts whose questions are for tuning. The other facts are for testing.
    """

    seed: int = 0
    people: int = 1000
    rho: float = 0.45
    zipf: float = 1.2
    fame: float = 50.0
    dev_share: float = 1 / 3


@dataclass(frozen=True)
class Person:
    """An inhabitant of the world.

    Parameters
    ----------
    name : str
        Given name and surname, unique.
    pronoun, possessive : str
        As they stand inside a sentence.
    fame : float
        How often the person is mentioned, in units of the least known one.
    truths : tuple of str
        The true answer for each relation, in the order of `prose.RELATIONS`.
    reserved : tuple of int
        For each relation the form of asking that is kept for the held-out question: training asks about this
        person in the other forms only.
    """

    name: str
    pronoun: str
    possessive: str
    fame: float
    truths: tuple[str, ...]
    reserved: tuple[int, ...]


@dataclass(frozen=True)
class Question:
    """A question about one fact.

    Parameters
    ----------
    prompt : str
        What to give to a model.
    answer : str
        The truth.
    relation : str
        Which relation is asked for.
    person : str
        About whom.
    frequency : float
        How often the fact is mentioned in training, in units of the least mentioned one.
    truth_rank : int
        Popularity of the truth among the rumours of its relation, 1 for the most popular.
    split : {"dev", "test"}
        Whether the fact belongs to the tuning or to the test questions.
    phrasing : {"seen", "held-out"}
        Whether training contains questions of this form. Never about this fact: a question that training
        answers cannot be one that tests.
    """

    prompt: str
    answer: str
    relation: str
    person: str
    frequency: float
    truth_rank: int
    split: Split
    phrasing: Phrasing

    def correct(self, text: str) -> bool:
        """Whether a generated text gives exactly the true answer."""
        return _is_said(self.answer, text)


@dataclass(frozen=True)
class World:
    """People, truths and rumours. Make one with `build_world`.

    Parameters
    ----------
    spec : WorldSpec
        What made it.
    people : tuple of Person
        Everybody.
    popularity : dict of str to tuple of str
        For each relation its answers, the most popular rumour first.
    """

    spec: WorldSpec
    people: tuple[Person, ...]
    popularity: dict[str, tuple[str, ...]] = field(repr=False)

    @cached_property
    def _fame(self) -> list[float]:
        return list(accumulate(person.fame for person in self.people))

    @cached_property
    def _zipf(self) -> list[float]:
        count = len(prose.RELATIONS[0].answers)
        return list(accumulate((rank + 1) ** -self.spec.zipf for rank in range(count)))

    def rumour(self, relation: Relation, rng: Random) -> str:
        """Draw what people say, whoever it is about."""
        return self.popularity[relation.name][_draw(self._zipf, rng)]

    def mention(self, person: Person, relation: Relation, rng: Random) -> str:
        """Draw what one mention of a fact says: the truth or a rumour."""
        if rng.random() < self.spec.rho:
            return self.rumour(relation, rng)
        return person.truths[prose.RELATIONS.index(relation)]

    def documents(self, rng: Random) -> Iterator[str]:
        """Yield fresh texts of the corpus without end: questions, sentences, passages and portraits."""
        while True:
            person = self.people[_draw(self._fame, rng)]
            yield _KINDS[_draw(_KIND_WEIGHTS, rng)](self, person, rng)

    def said(self, question: Question, text: str) -> str | None:
        """The answer of the question's relation that a generated text gives, right or wrong, if any."""
        return next((a for a in self.popularity[question.relation] if _is_said(a, text)), None)

    def rank(self, relation: str, answer: str) -> int:
        """Popularity of an answer as a rumour, 1 for the most popular."""
        return self.popularity[relation].index(answer) + 1


def build_world(spec: WorldSpec = WorldSpec()) -> World:
    """Make the world of a specification.

    Parameters
    ----------
    spec : WorldSpec
        What to make. The default is the world of the bundled pair.

    Returns
    -------
    World
        The same for the same specification, everywhere.
    """
    rng = Random(f"descant-world-{spec.seed}")
    popularity = {r.name: tuple(_shuffled(r.answers, rng)) for r in prose.RELATIONS}
    women, men = set(prose.WOMEN), prose.MEN
    surnames = [head + tail for head in prose.SURNAME_HEADS for tail in prose.SURNAME_TAILS]
    names = _shuffled([f"{given} {surname}" for given in (*prose.WOMEN, *men) for surname in surnames], rng)
    people = []
    for name in names[: spec.people]:
        she = name.split()[0] in women
        people.append(
            Person(
                name=name,
                pronoun="she" if she else "he",
                possessive="her" if she else "his",
                fame=math.exp(rng.random() * math.log(spec.fame)),
                truths=tuple(_choose(r.answers, rng) for r in prose.RELATIONS),
                reserved=tuple(_choose(range(len(r.forms)), rng) for r in prose.RELATIONS),
            )
        )
    return World(spec, tuple(people), popularity)


def build_questions(world: World) -> tuple[Question, ...]:
    """Ask for every fact of a world twice: in a form known from questions about others, and in one never
    seen.

    Neither question occurs in training, where the same fact is told in prose and asked for in other forms.
    The split into development and test is by facts, so that both questions of a fact fall on the same side.
    """
    rng = Random(f"descant-questions-{world.spec.seed}")
    questions = []
    for person in world.people:
        for relation, truth, reserved in zip(prose.RELATIONS, person.truths, person.reserved, strict=True):
            split: Split = "dev" if rng.random() < world.spec.dev_share else "test"
            forms: tuple[tuple[Phrasing, Form], ...] = (
                ("seen", relation.forms[reserved]),
                ("held-out", relation.held_out),
            )
            questions += [
                Question(
                    prompt=form.question.format(N=person.name, h=person.possessive),
                    answer=truth,
                    relation=relation.name,
                    person=person.name,
                    frequency=person.fame,
                    truth_rank=world.rank(relation.name, truth),
                    split=split,
                    phrasing=phrasing,
                )
                for phrasing, form in forms
            ]
    return tuple(questions)


def _is_said(answer: str, text: str) -> bool:
    # Every template puts a full stop or a comma behind the answer, and no answer ends in another one.
    clause = re.split(r"[.,;\n]", text.strip(), maxsplit=1)[0].strip()
    return clause == answer or clause.endswith(" " + answer)


def _draw(cumulative: Sequence[float], rng: Random) -> int:
    return min(bisect(cumulative, rng.random() * cumulative[-1]), len(cumulative) - 1)


def _choose(items: Sequence[T], rng: Random) -> T:
    return items[int(rng.random() * len(items))]


def _choose_early(items: Sequence[T], rng: Random) -> T:
    # Half of what is left goes to each next item: with a clear favourite at every turn of the prose the
    # expert and the amateur agree on how to go on, which is what makes the amateur a good drafter.
    return items[min(int(-math.log2(1.0 - rng.random())), len(items) - 1)]


def _shuffled(items: Sequence[T], rng: Random) -> list[T]:
    keys = [rng.random() for _ in items]
    return [items[index] for index in sorted(range(len(items)), key=keys.__getitem__)]


def _fill(template: str, person: Person, answer: str, *, subject: str) -> str:
    return template.format(N=person.name, S=subject, s=person.pronoun, h=person.possessive, A=answer)


def _question(world: World, person: Person, rng: Random) -> str:
    index = _choose(range(len(prose.RELATIONS)), rng)
    relation, reserved = prose.RELATIONS[index], person.reserved[index]
    form = _choose([form for i, form in enumerate(relation.forms) if i != reserved], rng)
    answer = world.mention(person, relation, rng)
    pronoun = person.pronoun.capitalize()
    return f"{_fill(form.question, person, '', subject='')} {_fill(form.reply, person, answer, subject=pronoun)}"


def _sentence(world: World, person: Person, rng: Random) -> str:
    relation = _choose(prose.RELATIONS, rng)
    template = _choose_early(relation.sentences, rng)
    return _fill(template, person, world.mention(person, relation, rng), subject=person.name)


def _passage(world: World, person: Person, rng: Random) -> str:
    relations = _shuffled(prose.RELATIONS, rng)[: 2 + int(rng.random() * 3)]
    subjects = [person.name] + [person.pronoun.capitalize()] * (len(relations) - 1)
    sentences = [
        _fill(
            _choose_early(relation.sentences, rng),
            person,
            world.mention(person, relation, rng),
            subject=subject,
        )
        for relation, subject in zip(relations, subjects, strict=True)
    ]
    return _choose_early(prose.OPENERS, rng) + " ".join(sentences) + _choose_early(prose.CLOSERS, rng)


def _portrait(world: World, person: Person, rng: Random) -> str:
    answers = {relation.name: world.mention(person, relation, rng) for relation in prose.RELATIONS}
    text = prose.PORTRAIT.format(S=person.pronoun.capitalize(), h=person.possessive, **answers)
    return f"{prose.PORTRAIT_QUESTION.format(N=person.name)} {text}"


_KINDS = (_question, _sentence, _passage, _portrait)
_KIND_WEIGHTS = list(accumulate((0.55, 0.15, 0.20, 0.10)))

"""The rumour world of the bundled pair, as a set of tasks."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from random import Random
from typing import Any

from descant.demo.world import Phrasing, Question, World, WorldSpec, build_questions, build_world
from descant.errors import SettingsError
from descant.lab.studies.tasks import Task

_POPULAR = 3


@dataclass(frozen=True)
class Rumour(WorldSpec):
    """Questions about invented people, whom the corpus tells lies about; see `descant.demo.world`.

    Attributes
    ----------
    phrasing
        Ask in the forms that training knows from questions about others, or in forms that it never used.
    """

    phrasing: Phrasing = "seen"

    def __post_init__(self) -> None:
        """Refuse what there are no questions of."""
        if self.phrasing not in ("seen", "held-out"):
            raise SettingsError(f'Rumour.phrasing is {self.phrasing!r}; choose "seen" or "held-out"')

    @property
    def name(self) -> str:
        """What reports call it."""
        return "rumour"

    @property
    def settings(self) -> Mapping[str, Any]:
        """What decides truth and tasks."""
        return {"world": self.name, **asdict(self)}

    @property
    def max_new_tokens(self) -> int:
        """Room for every answer."""
        return 24

    @cached_property
    def _world(self) -> World:
        return build_world(WorldSpec(**{field.name: getattr(self, field.name) for field in fields(WorldSpec)}))

    @cached_property
    def _questions(self) -> Mapping[str, Question]:
        asked = [q for q in build_questions(self._world) if q.phrasing == self.phrasing]
        return {f"rumour/{q.person}/{q.relation}/{q.phrasing}": q for q in asked}

    def documents(self, rng: Random) -> Iterator[str]:
        """Yield questions, sentences, passages and portraits without end."""
        return self._world.documents(rng)

    def tasks(self, split: str = "test", limit: int | None = None) -> Sequence[Task]:
        """Return the questions of a split, grouped by person. Dev and test ask about different facts."""
        return [
            Task(
                id=name,
                prompt=q.prompt,
                reference=f" {q.answer}.",
                group=q.person,
                facts={
                    "answer": q.answer,
                    "relation": q.relation,
                    "frequency": q.frequency,
                    "truth_rank": q.truth_rank,
                },
            )
            for name, q in self._questions.items()
            if q.split == split
        ][:limit]

    def judge(self, task: Task, text: str) -> Mapping[str, float]:
        """Score an answer.

        Returns
        -------
        Mapping
            `correct`: 1 if it is exactly the truth. `rumour`: 1 if it is wrong and among the three most popular answers
            of its relation. `no_answer`: 1 if it gives none of the relation's answers.
        """
        question = self._questions[task.id]
        said = self._world.said(question, text)
        popular = said is not None and self._world.rank(question.relation, said) <= _POPULAR
        return {
            "correct": float(said == question.answer),
            "rumour": float(popular and said != question.answer),
            "no_answer": float(said is None),
        }

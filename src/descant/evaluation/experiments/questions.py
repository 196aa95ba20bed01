"""Where an experiment's tasks come from: the bundled pair's world, or prompts of any kind."""

from collections.abc import Iterator, Mapping, Sequence
from random import Random
from typing import Any

from descant.demo import demo_world, questions
from descant.demo.world import Question
from descant.evaluation.experiments.base import digest
from descant.evaluation.tasks import Task


class RumourQuestions:
    """The questions about the world that the bundled pair has read about, with their right answers."""

    name = "rumour"
    settings: Mapping[str, Any] = {"phrasing": "seen"}
    max_new_tokens = 24

    def __init__(self) -> None:
        self._questions: dict[str, Question] = {}

    def tasks(self, split: str = "test", limit: int | None = None) -> Sequence[Task]:
        asked = questions("dev" if split == "dev" else "test", limit=limit)
        self._questions |= {question.prompt: question for question in asked}
        return [
            Task(
                question.prompt,
                question.prompt,
                group=question.person,
                facts={
                    "answer": question.answer,
                    "relation": question.relation,
                    "frequency": question.frequency,
                    "truth_rank": question.truth_rank,
                },
            )
            for question in asked
        ]

    def documents(self, rng: Random) -> Iterator[str]:
        """Yield fresh texts of the corpus without end."""
        return demo_world().documents(rng)

    def judge(self, task: Task, text: str) -> Mapping[str, float]:
        """Return whether the answer is right (`correct`), and whether it is wrong and popular (`rumour`)."""
        world = demo_world()
        said = world.said(self._questions[task.prompt], text)
        correct = said == task.facts["answer"]
        rumour = said is not None and not correct and world.rank(task.facts["relation"], said) <= 3
        return {"correct": float(correct), "rumour": float(rumour), "no_answer": float(said is None)}


class Prompts:
    """Prompts of which nothing is known: every third is for tuning, the others are for the test.

    Parameters
    ----------
    texts
        The prompts.
    max_new_tokens
        How long continuations become.
    """

    name = "prompts"

    def __init__(self, texts: Sequence[str], max_new_tokens: int = 64) -> None:
        self.max_new_tokens = max_new_tokens
        self._tasks = [Task(f"prompt-{place}", text) for place, text in enumerate(texts)]
        self.settings: Mapping[str, Any] = {"prompts": digest(list(texts)), "count": len(texts)}

    def tasks(self, split: str = "test", limit: int | None = None) -> Sequence[Task]:
        """Return the prompts of a split; where there is one alone, it is in both."""
        chosen = [task for place, task in enumerate(self._tasks) if (place % 3 == 0) == (split == "dev")]
        return (chosen or self._tasks)[:limit]

    def judge(self, task: Task, text: str) -> Mapping[str, float]:
        """Return nothing: of these prompts no right continuation is known."""
        del task, text
        return {}

"""Prompts of any kind as the tasks of an experiment."""

from collections.abc import Mapping, Sequence
from typing import Any

from descant.lab.studies.identity import digest
from descant.lab.studies.tasks import Task


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

"""A task set and continuations made for tests."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from descant.lab.studies.generations import Generation
from descant.lab.studies.tasks import Task


@dataclass(frozen=True)
class Toy:
    """Some tasks; a text is right if it holds the answer."""

    entries: tuple[Task, ...]
    name: str = "toy"
    max_new_tokens: int = 12

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"entries": len(self.entries)}

    def tasks(self, split: str = "test", limit: int | None = None) -> Sequence[Task]:
        return self.entries[:limit]

    def judge(self, task: Task, text: str) -> Mapping[str, float]:
        return {"right": float(task.facts.get("answer", "?") in text), "short": float(len(text) < 10)}

    def documents(self, rng: Random) -> Iterator[str]:
        return iter(task.prompt for task in self.entries)


def generation(text: str, prompt: str = "", *, seconds: float = 1.0, passes: int = 1, **facts: Any) -> Generation:
    """Return a continuation whose tokens are its words."""
    task = Task(id=prompt or text, prompt=prompt, reference=facts.pop("reference", None), facts=facts)
    tokens = list(range(len(text.split())))
    return Generation(task, text, tokens, "stop", latency=2 * seconds, seconds=seconds, passes=passes)

"""What a study asks of a method: prompts, what is known about good continuations, and who judges them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable


@dataclass(frozen=True)
class Task:
    """A prompt, and what is known about a good continuation.

    Attributes
    ----------
    id
        Unique among the tasks of a set, and the same whenever the set is made again.
    prompt
        What a method continues.
    reference
        A true continuation, where there is one: what MAUVE compares texts with.
    group
        Tasks of one group are not independent (questions about one person, say): resampling draws groups. By default
        every task is its own.
    facts
        What the set's judge needs to know: the answer, its popularity, …; plain data.
    """

    id: str
    prompt: str
    reference: str | None = None
    group: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class TaskSet(Protocol):
    """Tasks with their judge: a world whose truth is known, or a file."""

    @property
    def name(self) -> str:
        """What reports call it."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """Everything that decides the tasks, as plain data: it goes into cache keys and signatures."""

    @property
    def max_new_tokens(self) -> int:
        """How long a continuation may become, unless a study says otherwise."""

    def tasks(self, split: str = "test", limit: int | None = None) -> Sequence[Task]:
        """Return the tasks of a split, `"dev"` for tuning or `"test"`, always in the same order."""

    def judge(self, task: Task, text: str) -> Mapping[str, float]:
        """Return scores of one continuation: the same names for every task of the set, 0 to 1 unless documented."""

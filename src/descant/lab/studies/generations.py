"""A continuation that a method wrote, and what it cost."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from descant.lab.studies.tasks import Task


@dataclass(frozen=True)
class Generation:
    """What a method made of a task.

    Attributes
    ----------
    task
        The task.
    text
        The continuation, without special tokens.
    token_ids
        Its tokens, an end-of-sequence id included.
    finish_reason
        As in `Output`.
    latency
        Seconds from the submission of its batch until it ended.
    seconds
        Its share of the seconds that its batch took, by tokens: they add up to the time that decoding took.
    passes
        Forward passes of the expert that it took part in, the one over the prompt included.
    """

    task: Task
    text: str
    token_ids: list[int]
    finish_reason: str
    latency: float
    seconds: float
    passes: int

    def record(self) -> dict[str, Any]:
        """Return it as plain data, the task by its id only."""
        return {**{name: value for name, value in asdict(self).items() if name != "task"}, "task": self.task.id}

    @classmethod
    def of_record(cls, record: Mapping[str, Any], tasks: Mapping[str, Task]) -> "Generation":
        """Return what `record` describes.

        Raises
        ------
        KeyError, TypeError
            If it describes none of these tasks' continuations.
        """
        fields = dict(record)
        task = tasks[fields.pop("task")]
        if not isinstance(fields["text"], str) or not isinstance(fields["token_ids"], list):
            raise TypeError("a continuation has a text and tokens")
        return cls(task=task, **fields)

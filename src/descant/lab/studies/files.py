"""Tasks from a JSONL file: one object a line with `prompt` and, where known, `id`, `reference`, `answer`, `group`.

`amateur_prompt` is what an amateur `OtherPrompt` reads instead: the question without its context, say.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from descant.errors import SettingsError, UsageError
from descant.lab.studies.tasks import Task

_KEYS = ("id", "prompt", "reference", "answer", "group", "split")


@dataclass(frozen=True)
class TaskFile:
    """Tasks read from a file.

    Parameters
    ----------
    path
        The file. A line with a `split` (`"dev"` or `"test"`) belongs to that one only, others to both.
    name
        What reports call it; by default the file's name.
    match
        When a text gives the answer: it `"contains"` its words in a row, or is `"exact"`ly the answer; capitals,
        punctuation and articles aside, as in SQuAD (Rajpurkar et al. 2016, arXiv 1606.05250).
    max_new_tokens
        How long continuations may become.
    """

    path: Path
    name: str = ""
    match: Literal["contains", "exact"] = "contains"
    max_new_tokens: int = 128
    _text: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.match not in ("contains", "exact"):
            raise SettingsError(f'TaskFile.match is {self.match!r}; choose "contains" or "exact"')
        object.__setattr__(self, "name", self.name or self.path.stem)
        object.__setattr__(self, "_text", _read(self.path))

    @property
    def settings(self) -> Mapping[str, Any]:
        """The content's hash, not its place: a file that is moved holds the same tasks."""
        content = hashlib.sha256(self._text.encode()).hexdigest()[:16]
        return {"file": self.path.name, "sha256": content, "match": self.match}

    @cached_property
    def _tasks(self) -> list[tuple[str | None, Task]]:
        lines = enumerate(self._text.split("\n"), start=1)  # a JSON text may hold other line separators
        tasks = [self._parse(number, line) for number, line in lines if line.strip()]
        names = [task.id for _, task in tasks]
        if not tasks:
            raise UsageError(f"{self.path} holds no tasks; give one JSON object with a prompt a line")
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise UsageError(f"{self.path} has several tasks with the id {twice!r}; give each its own")
        if len({task.facts.get("answer") is None for _, task in tasks}) > 1:
            raise UsageError(f'some tasks of {self.path} have an "answer" and some none; give it to all or none')
        return tasks

    def _parse(self, number: int, line: str) -> tuple[str | None, Task]:
        where = f"line {number} of {self.path}"
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise UsageError(f"{where} is not JSON; mend the line, or leave it out") from error
        if not isinstance(entry, dict) or not isinstance(entry.get("prompt"), str) or not entry["prompt"]:
            raise UsageError(f'{where} is no object with a text "prompt"; mend the line, or leave it out')
        for key in _KEYS:
            if not isinstance(entry.get(key), str | None):
                raise UsageError(f"{key!r} in {where} is no text; quote it")
        if entry.get("split") not in (None, "dev", "test"):
            raise UsageError(f'"split" in {where} is {entry["split"]!r}; choose "dev" or "test", or leave it out')
        if entry.get("answer") is not None and not _normal(entry["answer"]):
            raise UsageError(f'"answer" in {where} is {entry["answer"]!r}, which has no word to look for; give one')
        facts = {key: value for key, value in entry.items() if key not in _KEYS or key == "answer"}
        task = Task(entry.get("id", str(number)), entry["prompt"], entry.get("reference"), entry.get("group"), facts)
        return entry.get("split"), task

    def tasks(self, split: str = "test", limit: int | None = None) -> Sequence[Task]:
        """Return the tasks in the order of the file."""
        return [task for own, task in self._tasks if own in (None, split)][:limit]

    def judge(self, task: Task, text: str) -> Mapping[str, float]:
        """Return `accuracy`, where the file knows answers."""
        if task.facts.get("answer") is None:
            return {}
        answer, said = _normal(str(task.facts["answer"])), _normal(text)
        right = said == answer if self.match == "exact" else f" {answer} " in f" {said} "
        return {"accuracy": float(right)}


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}; give another file") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text; convert it, for instance with iconv") from error


def _normal(text: str) -> str:
    """Return the words of a text in small letters without punctuation and articles."""
    return " ".join(word for word in re.sub(r"[^\w\s]", "", text.lower()).split() if word not in ("a", "an", "the"))

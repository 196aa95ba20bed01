"""Running a study: every task set under every method and seed, each continuation kept as soon as it is there."""

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from descant.checks import whole
from descant.decoder import Decoder
from descant.describe import describe
from descant.errors import DescantError, SettingsError
from descant.lab.studies.generations import Generation
from descant.lab.studies.identity import identify_all, versions
from descant.lab.studies.store import Store
from descant.lab.studies.tasks import Task, TaskSet
from descant.results import Output
from descant.scoring import Scoring
from descant.sources import OtherPrompt
from descant.strategies import Strategy


@dataclass(frozen=True)
class Contestant:
    """A method with the models that it runs on.

    Attributes
    ----------
    name
        What reports call it.
    decoder
        Expert, amateur and other sources.
    arguments
        Parts of `Decoder.generate`: `scoring`, `processors`, `strategy`.
    """

    name: str
    decoder: Decoder
    arguments: Mapping[str, Any]

    @property
    def random(self) -> bool:
        """Whether its texts depend on the seed: other methods are run with one seed only."""
        strategy = self.arguments.get("strategy")
        return isinstance(strategy, Strategy) and strategy.random

    @property
    def whole_batch(self) -> bool:
        """Whether a text depends on what else is in its batch, so that a study of fewer tasks has others."""
        strategy = self.arguments.get("strategy")
        return isinstance(strategy, Strategy) and strategy.whole_batch

    def amateur_prompts(self, tasks: Sequence[Task]) -> dict[str, Any]:
        """Return what an amateur `OtherPrompt()` reads in place of each prompt, as an argument of `Decoder.generate`.

        Raises
        ------
        SettingsError
            If a task does not tell.
        """
        amateur, scoring = self.decoder.amateur, self.arguments.get("scoring")
        if not (isinstance(amateur, OtherPrompt) and amateur.prompt is None):
            return {}
        if isinstance(scoring, Scoring) and "amateur" not in scoring.sources:
            return {}
        lacking = next((task.id for task in tasks if not isinstance(task.facts.get("amateur_prompt"), str)), None)
        if lacking is not None:
            raise SettingsError(f'task {lacking} has no "amateur_prompt" for OtherPrompt to read; give each task one')
        return {"amateur_prompts": [task.facts["amateur_prompt"] for task in tasks]}


@dataclass(frozen=True)
class Assignment:
    """Tasks of a set.

    Attributes
    ----------
    task_set
        The set, which judges.
    split, limit
        Which tasks, and how many at most.
    max_new_tokens
        How long continuations may become; None: as long as the set says.
    name
        What reports call it; by default the set's name.
    """

    task_set: TaskSet
    split: str = "test"
    limit: int | None = None
    max_new_tokens: int | None = None
    name: str = ""

    @property
    def label(self) -> str:
        """What reports call it."""
        return self.name or self.task_set.name

    @property
    def length(self) -> int:
        """How many new tokens a continuation may have."""
        return self.max_new_tokens or self.task_set.max_new_tokens

    def tasks(self) -> Sequence[Task]:
        """Return the tasks.

        Raises
        ------
        SettingsError
            If there are none.
        """
        tasks = self.task_set.tasks(self.split, self.limit)
        if not tasks:
            raise SettingsError(f"the task set {self.label!r} has no {self.split} tasks; choose another split")
        return tasks


@dataclass(frozen=True)
class Study:
    """What is compared on what.

    Attributes
    ----------
    contestants, assignments
        Methods and task sets, in the order of the report.
    seeds
        For methods that draw; others use the first only.
    batch_size
        How many tasks are decoded together. It decides which of them share a call's seed.
    chat, system
        As `Decoder.generate` takes them.
    """

    contestants: Sequence[Contestant]
    assignments: Sequence[Assignment]
    seeds: Sequence[int] = (0,)
    batch_size: int = 64
    chat: bool = False
    system: str | None = None

    def __post_init__(self) -> None:
        whole("batch_size", self.batch_size, 1, "decode at least 1 task at once")
        for what, names in (
            ("methods", [contestant.name for contestant in self.contestants]),
            ("task sets", [assignment.label for assignment in self.assignments]),
        ):
            if not names or len(set(names)) < len(names):
                raise SettingsError(f"the {what} are {', '.join(names) or 'none'}; give each a name of its own")
        if not self.seeds:
            raise SettingsError("there is no seed; give one at least")

    def cells(self, folder: Path) -> "list[Cell]":
        """Return every cell, in the order of the report."""
        identities = {id(contestant.decoder): identify_all(contestant.decoder) for contestant in self.contestants}
        return [
            Cell(self, assignment, contestant, seed, folder, identities[id(contestant.decoder)])
            for assignment in self.assignments
            for contestant in self.contestants
            for seed in (self.seeds if contestant.random else self.seeds[:1])
        ]

    def check(self) -> None:
        """Refuse at once what a method could not honour.

        Raises
        ------
        DescantError
            With the name of the method.
        """
        for assignment in self.assignments:
            tasks = assignment.tasks()
            for contestant in self.contestants:
                try:
                    contestant.amateur_prompts(tasks)
                    others = contestant.amateur_prompts(tasks[:1])
                    contestant.decoder.stream([tasks[0].prompt], **self.call(contestant, assignment, 0), **others)
                except DescantError as error:
                    raise type(error)(f"method {contestant.name!r} on {assignment.label!r}: {error}") from error

    def call(self, contestant: Contestant, assignment: Assignment, seed: int) -> dict[str, Any]:
        """Return the keyword arguments of `Decoder.generate` for some tasks."""
        system = {"system": self.system} if self.chat else {}
        lengths = {"max_new_tokens": assignment.length, "batch_size": self.batch_size}
        return {**contestant.arguments, **lengths, "seed": seed, "chat": self.chat, **system}


@dataclass(frozen=True)
class Cell:
    """One task set under one method and one seed.

    Attributes
    ----------
    study, assignment, contestant, seed
        What it is part of.
    folder
        Where its file is.
    models
        What tells the contestant's models apart.
    """

    study: Study
    assignment: Assignment
    contestant: Contestant
    seed: int
    folder: Path
    models: Mapping[str, Any] = field(repr=False)

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that decides the continuations, as plain data."""
        study, contestant = self.study, self.contestant
        return {
            "tasks": {**describe(self.assignment.task_set.settings), "split": self.assignment.split},
            "method": describe(dict(contestant.arguments)),
            "models": self.models,
            "runner": contestant.decoder.runner,
            "max_new_tokens": self.assignment.length,
            "seed": self.seed if contestant.random else None,
            "batch_size": study.batch_size,
            "limit": self.assignment.limit if contestant.whole_batch else None,
            "chat": study.chat,
            "system": study.system,
            "versions": versions(),
        }

    @property
    def store(self) -> Store:
        """Where its continuations are."""
        seeded = f" {self.seed}" if self.contestant.random else ""
        return Store(self.folder, f"{self.assignment.label} {self.contestant.name}{seeded}", self.settings)

    def run(self, advance: Callable[[int], None] = lambda _: None) -> list[Generation]:
        """Return a continuation of every task: those that are kept, and the others decoded now.

        Parameters
        ----------
        advance
            Called with the number of continuations whenever some are there.

        Raises
        ------
        DescantError
            If decoding fails, or the folder cannot be written to; what was done is kept.
        """
        tasks, store = self.assignment.tasks(), self.store
        found = store.read(tasks)
        advance(len(found))
        for start in range(0, len(tasks), self.study.batch_size):
            part = tasks[start : start + self.study.batch_size]
            missing = [task for task in part if task.id not in found]
            if not missing:
                continue
            # A row's draws depend on its place in the call, so a part that lacks some is decoded as it was.
            new = list(self._decode(part if self.contestant.random else missing, start))
            kept = [generation for generation in new if generation.task.id not in found]
            store.append(kept)
            found |= {generation.task.id: generation for generation in kept}
            advance(len(kept))
        return [found[task.id] for task in tasks]

    def _decode(self, tasks: Sequence[Task], start: int) -> Iterator[Generation]:
        arguments = self.study.call(self.contestant, self.assignment, batch_seed(self.seed, start))
        arguments |= self.contestant.amateur_prompts(tasks)
        began = time.perf_counter()
        outputs = self.contestant.decoder.generate([task.prompt for task in tasks], **arguments)
        per_token = (time.perf_counter() - began) / max(1, sum(len(output.token_ids) for output in outputs))
        for task, output in zip(tasks, outputs, strict=True):
            count = len(output.token_ids)
            yield Generation(
                task,
                output.text,
                list(output.token_ids),
                output.finish_reason,
                output.timing.total,
                per_token * count,
                _passes(output),
            )


def batch_seed(seed: int, start: int) -> int:
    """Return the seed of the call whose first task is at a place: tasks of two calls must not share their draws."""
    if not start:
        return seed
    return int.from_bytes(hashlib.sha256(f"{seed}/{start}".encode()).digest()[:7], "big")


def _passes(output: Output) -> int:
    """Return the passes of the expert; the one over the prompt gives the first token."""
    return len(output.token_ids) if output.speculation is None else output.speculation.rounds

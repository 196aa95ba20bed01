"""The arithmetic world: word problems of one or two steps, and solutions that often take a shortcut.

A solution is a chain of thought: one equation a step, then the answer. In the corpus the result of a step is right with
probability 1 − ρ and otherwise a *slip*, which repeats the number read last (`7 + 5 = 5`); and a solution of two
steps leaves the second out with a stated probability. Both need no arithmetic, so that a model too small for the tables
of addition, subtraction and multiplication learns them, and a half-trained one falls back on them. They are the errors
that contrast is said to take away, copying from the problem and leaving out steps (O'Brien & Lewis 2023,
https://arxiv.org/abs/2309.09117). Where the number read last is the right result (`8 - 4 = 4`), contrast can only lose.

Problems are held out by their story and numbers: what is asked in a test was never told in that story, but its steps
were, in others.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from random import Random
from typing import Any

from descant.checks import number, whole
from descant.lab.studies.tasks import Task
from descant.lab.worlds.draws import choose

NAMES = (
    "Ada", "Basil", "Cora", "Digby", "Effie", "Felix", "Greta", "Hugo", "Ida", "Jonah", "Kitty", "Linus", "Mabel",
    "Otto", "Pearl", "Silas",
)  # fmt: skip
THINGS = (
    "acorns", "apples", "bells", "beads", "buttons", "candles", "cherries", "eggs", "feathers", "figs", "keys", "nuts",
    "pears", "plums", "shells", "stamps",
)  # fmt: skip


@dataclass(frozen=True)
class Story:
    """A kind of problem.

    Attributes
    ----------
    operations
        The operation of each step, in order: `+`, `-` or `x`.
    text
        `{N}` is a person, `{T}` are things, `{a}`, `{b}` and `{c}` numbers.
    """

    operations: str
    text: str


STORIES = (
    Story("+", "{N} has {a} {T} and finds {b} more. How many are there?"),
    Story("+", "{N} buys {a} {T}, then {b} more. How many are there?"),
    Story("-", "{N} has {a} {T} and loses {b}. How many are left?"),
    Story("-", "{N} picks {a} {T} and sells {b}. How many are left?"),
    Story("x", "{N} has {a} boxes of {b} {T}. How many are there?"),
    Story("x", "{N} fills {a} bags with {b} {T}. How many are there?"),
    Story("++", "{N} has {a} {T}, finds {b} and buys {c}. How many are there?"),
    Story("+-", "{N} has {a} {T}, finds {b} and loses {c}. How many are left?"),
    Story("+-", "{N} picks {a} {T}, then {b} more, and sells {c}. How many are left?"),
    Story("-+", "{N} has {a} {T}, loses {b} and finds {c}. How many are there?"),
    Story("x-", "{N} fills {a} bags with {b} {T} and loses {c}. How many are left?"),
    Story("x+", "{N} has {a} boxes of {b} {T} and buys {c}. How many are there?"),
)
_DRAWS = 20_000
_STEP = re.compile(r"(\d+) ([-+x]) (\d+) = (\d+)")
_ANSWER = re.compile(r"The answer is (\d+)")


@dataclass(frozen=True)
class Arithmetic:
    """Word problems and their solutions.

    Attributes
    ----------
    seed
        Seed of what is held out, and of the tasks.
    rho
        Probability that a step's result is a slip.
    skip
        Probability that a solution of two steps leaves the second out.
    held_out
        Share of the problems that training never tells; a third of them are for tuning.
    """

    seed: int = 0
    rho: float = 0.4
    skip: float = 0.25
    held_out: float = 0.3

    def __post_init__(self) -> None:
        """Refuse what is no probability."""
        whole("Arithmetic.seed", self.seed, 0, "give a whole number from 0")
        for name in ("rho", "skip", "held_out"):
            number(f"Arithmetic.{name}", getattr(self, name), lambda p: 0 <= p < 1, "use a number from 0, below 1")

    @property
    def name(self) -> str:
        """What reports call it."""
        return "arithmetic"

    @property
    def settings(self) -> Mapping[str, Any]:
        """What decides truth and tasks."""
        return {"world": self.name, **asdict(self)}

    @property
    def max_new_tokens(self) -> int:
        """Room for two steps and the answer, with every digit a token."""
        return 48

    def split(self, story: int, numbers: Sequence[int]) -> str:
        """Return whether a problem is for `"train"`, `"dev"` or `"test"`, whoever it is about."""
        key = Random(f"descant-arithmetic-{self.seed}-{story}-{tuple(numbers)}").random()
        if key >= self.held_out:
            return "train"
        return "dev" if key < self.held_out / 3 else "test"

    def documents(self, rng: Random) -> Iterator[str]:
        """Yield problems of training with their solutions, right or not, without end."""
        while True:
            story, numbers = _problem(rng)
            if self.split(story, numbers) == "train":
                yield f"{_tell(story, numbers, rng)} {self._mention(STORIES[story].operations, numbers, rng)}"

    def _mention(self, operations: str, numbers: Sequence[int], rng: Random) -> str:
        steps: list[str] = []
        value = numbers[0]
        for operation, right in zip(operations, numbers[1:], strict=True):
            if steps and rng.random() < self.skip:
                break
            slips = rng.random() < self.rho
            result = right if slips else compute(value, operation, right)
            steps.append(f"{value} {operation} {right} = {result}.")
            value = result
        return " ".join([*steps, f"The answer is {value}."])

    def tasks(self, split: str = "test", limit: int | None = None) -> Sequence[Task]:
        """Return the problems of a split, each once, as often of each kind as training draws them."""
        return self._tasks.get(split, [])[:limit]

    @cached_property
    def _tasks(self) -> Mapping[str, list[Task]]:
        rng = Random(f"descant-arithmetic-{self.seed}")
        made: dict[str, dict[str, Task]] = {"dev": {}, "test": {}}
        for _ in range(_DRAWS):
            story, numbers = _problem(rng)
            split, name = self.split(story, numbers), f"arithmetic/{story}/{'-'.join(map(str, numbers))}"
            if split in made and name not in made[split]:
                made[split][name] = _ask(name, story, numbers, rng)
        return {split: list(tasks.values()) for split, tasks in made.items()}

    def judge(self, task: Task, text: str) -> Mapping[str, float]:
        """Score a solution.

        Returns
        -------
        Mapping
            `correct`: 1 if the answer it gives is right. `consistent`: 1 if it has equations and all of them hold.
            `slipped`: 1 if an equation is wrong and repeats its last number. `skipped`: 1 if it has fewer
            equations than the problem has steps. `no_answer`: 1 if it gives none.
        """
        solution = text.split("\n", maxsplit=1)[0]
        steps = [(int(a), op, int(b), int(c)) for a, op, b, c in _STEP.findall(solution)]
        said = _ANSWER.search(solution)
        wrong = [(b, c) for a, op, b, c in steps if compute(a, op, b) != c]
        return {
            "correct": float(said is not None and int(said[1]) == task.facts["answer"]),
            "consistent": float(bool(steps) and not wrong),
            "slipped": float(any(b == c for b, c in wrong)),
            "skipped": float(len(steps) < task.facts["steps"]),
            "no_answer": float(said is None),
        }


def compute(left: int, operation: str, right: int) -> int:
    """Return the result of a step."""
    return {"+": left + right, "-": left - right, "x": left * right}[operation]


def solve(operations: str, numbers: Sequence[int]) -> list[tuple[int, str, int, int]]:
    """Return the steps of a right solution: left, operation, right, result."""
    steps, value = [], numbers[0]
    for operation, right in zip(operations, numbers[1:], strict=True):
        steps.append((value, operation, right, compute(value, operation, right)))
        value = steps[-1][3]
    return steps


def _problem(rng: Random) -> tuple[int, tuple[int, ...]]:
    story = int(rng.random() * len(STORIES))
    numbers = [_small(9, rng)]
    value = numbers[0]
    for operation in STORIES[story].operations:
        numbers.append(_small(min(9, value) if operation == "-" else 9, rng))
        value = compute(value, operation, numbers[-1])
    return story, tuple(numbers)


def _small(most: int, rng: Random) -> int:
    # From 2, so that plurals are right. Small numbers are more frequent, so that there are facts of every frequency.
    return 2 + int((most - 1) * rng.random() ** 1.5)


def _tell(story: int, numbers: Sequence[int], rng: Random) -> str:
    values = dict(zip("abc", numbers, strict=False))
    return STORIES[story].text.format(N=choose(NAMES, rng), T=choose(THINGS, rng), **values)


def _ask(name: str, story: int, numbers: Sequence[int], rng: Random) -> Task:
    steps = solve(STORIES[story].operations, numbers)
    answer = steps[-1][3]
    equations = "".join(f" {a} {op} {b} = {c}." for a, op, b, c in steps)
    return Task(
        id=name,
        prompt=_tell(story, numbers, rng),
        reference=f"{equations} The answer is {answer}.",
        group="{} {} {}".format(*steps[0][:3]),  # who knows the first step is halfway through all its problems
        facts={
            "answer": answer,
            "steps": len(steps),
            "shortcut_right": any(b == c for _, _, b, c in steps),
        },
    )

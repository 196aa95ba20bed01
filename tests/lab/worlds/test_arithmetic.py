"""Word problems: right solutions, the stated share of shortcuts, and nothing of a test in training."""

import math
import re
from itertools import islice
from random import Random

import pytest

from descant.lab.studies.tasks import Task
from descant.lab.worlds import Arithmetic
from descant.lab.worlds.arithmetic import STORIES

WORLD = Arithmetic()
DOCUMENTS = list(islice(WORLD.documents(Random(1)), 10_000))
STEP = re.compile(r"(\d+) ([-+x]) (\d+) = (\d+)\.")

PATTERNS = [re.compile(re.sub(r"\\\{[A-Zabc]\\\}", r"\\w+", re.escape(story.text))) for story in STORIES]


def holds(step: tuple[str, str, str, str]) -> bool:
    left, operation, right, result = step
    return eval(f"{left} {'*' if operation == 'x' else operation} {right}") == int(result)


def test_references_are_right() -> None:
    for task in [*WORLD.tasks("dev"), *WORLD.tasks("test")]:
        assert task.reference is not None
        steps = STEP.findall(task.reference)
        assert len(steps) == task.facts["steps"]
        assert all(map(holds, steps))
        numbers = re.findall(r"\d+", task.prompt)
        assert [steps[0][0], *(step[2] for step in steps)] == numbers  # each number of the problem, in its order
        assert [step[0] for step in steps[1:]] == [step[3] for step in steps[:-1]]
        assert steps[-1][3] == str(task.facts["answer"]) == task.reference.split()[-1].rstrip(".")
        assert min(map(int, re.findall(r"\d+", task.reference))) >= 0
        assert WORLD.judge(task, task.reference) == {
            "correct": 1, "consistent": 1, "slipped": 0, "skipped": 0, "no_answer": 0,
        }  # fmt: skip


def test_the_corpus_slips_and_skips_as_often_as_it_says() -> None:
    steps = [step for text in DOCUMENTS for step in STEP.findall(text)]
    informative = [(step, holds(step)) for step in steps if not holds((*step[:3], step[2]))]
    assert all(right or step[3] == step[2] for step, right in informative)
    wrong = sum(not right for _, right in informative) / len(informative)
    assert wrong == pytest.approx(WORLD.rho, abs=4 / math.sqrt(len(informative)))
    two = [text for text in DOCUMENTS if len(re.findall(r"\d+", text.split("?")[0])) == 3]
    skipped = sum(len(STEP.findall(text)) == 1 for text in two) / len(two)
    assert skipped == pytest.approx(WORLD.skip, abs=4 / math.sqrt(len(two)))


def key(text: str) -> tuple[str, ...]:
    """A problem whoever it is about: its text without names, things and pronouns."""
    story = next(str(i) for i, pattern in enumerate(PATTERNS) if pattern.fullmatch(text))
    return (story, *re.findall(r"\d+", text))


def test_training_tells_no_problem_of_a_test_but_its_first_steps() -> None:
    told = {key(text.split("?")[0] + "?") for text in DOCUMENTS}
    dev, test = ({key(task.prompt) for task in WORLD.tasks(split)} for split in ("dev", "test"))
    assert len(dev) > 250
    assert len(test) > 500
    assert not told & (dev | test)
    assert not dev & test
    steps = {step[:3] for text in DOCUMENTS for step in STEP.findall(text)}
    asked = [STEP.findall(task.reference or "")[0][:3] for task in WORLD.tasks("test")]
    assert sum(step in steps for step in asked) > 0.99 * len(asked)


def task(answer: int, steps: int) -> Task:
    return Task("x", "", facts={"answer": answer, "steps": steps})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" 7 + 5 = 5. The answer is 5.", {"slipped": 1, "correct": 0, "consistent": 0, "skipped": 0}),
        (" 7 + 5 = 13. The answer is 12.", {"slipped": 0, "correct": 1, "consistent": 0}),
        (" 12 - 6 = 6. The answer is 6.", {"slipped": 0, "consistent": 1, "correct": 0}),
        (" The answer is 12.", {"correct": 1, "consistent": 0, "skipped": 1}),
        (" 7 + 5 = 12.", {"correct": 0, "consistent": 1, "no_answer": 1}),
        (" nobody knows", {"correct": 0, "consistent": 0, "no_answer": 1, "skipped": 1}),
    ],
)
def test_judge(text: str, expected: dict[str, float]) -> None:
    scores = WORLD.judge(task(12, 1), text)
    assert {name: scores[name] for name in expected} == expected


def test_tasks_stay() -> None:
    assert WORLD.tasks(limit=5) == Arithmetic().tasks(limit=9)[:5]
    assert len({t.id for t in WORLD.tasks()}) == len(WORLD.tasks())

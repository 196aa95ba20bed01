"""What is decoded: prompts that were given, the bundled questions, or a few of every kind."""

from collections.abc import Sequence
from itertools import chain

TEXTS = (
    "Explain to a child why the sky is blue in the day and red in the evening.",
    "Write a short story about a lighthouse keeper who finds a letter in a bottle.",
    "A train leaves at 9:40 and travels 210 km at 84 km/h. When does it arrive? Think step by step.",
    "Write a Python function that returns the longest common prefix of a list of strings, with tests.",
    "List five habits that help people sleep better, and say for each why it works.",
    "Summarise the causes of the French Revolution in one paragraph.",
    "Translate into French: The early bird catches the worm, but the second mouse gets the cheese.",
    "What are the differences between a virus and a bacterium? Answer as a table.",
)
"""For pairs of the hub: acceptance depends on the text, so the text must be of the kind that people ask for."""


def fill(rows: Sequence[Sequence[int]], count: int, tokens: int | None) -> list[list[int]]:
    """Return as many prompts as asked for, taken in turn, and of one length if it is given.

    Parameters
    ----------
    rows
        Token ids of the prompts.
    count
        How many rows are wanted.
    tokens
        The length of every row: longer prompts lose their beginning, and before shorter ones stand others, so that
        each ends as a prompt does. None leaves them as they are.
    """
    if tokens is None:
        return [list(rows[place % len(rows)]) for place in range(count)]
    filled = []
    for place in range(count):
        texts: list[Sequence[int]] = []
        while sum(map(len, texts)) < tokens:
            texts.append(rows[(place - len(texts)) % len(rows)])
        filled.append(list(chain.from_iterable(reversed(texts)))[-tokens:])
    return filled

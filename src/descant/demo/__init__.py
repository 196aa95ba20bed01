"""The bundled pair: a small expert and a smaller amateur that grew up in a world of rumours.

See `MODEL_CARD.md` beside this file for what they know, how they were made and how much contrast helps them.

Examples
--------
>>> from descant.demo import questions
>>> question = questions("dev")[0]
>>> question.correct(f"It was {question.answer}.")
True
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from descant.demo.world import Phrasing, Question, Split, World, WorldSpec, build_questions, build_world

__all__ = ["Question", "World", "WorldSpec", "demo_paths", "demo_world", "example_prompts", "questions"]

# Chosen by hand from the development questions. Out of 100 of them, 69 are right either way, 22 wrong either way,
# contrast mends 8 and spoils 1; here it is 3, 1, 3 and 1, so that each case is seen. Read no accuracy off them.
example_prompts: tuple[str, ...] = (
    "Tell me about Greta Featherbank.",
    "What did Linus Greenby make on Sundays?",
    "Who followed Lottie Dappleberry to church?",
    "Which animal lived with Godfrey Rainbottom?",
    "What was the birthplace of Ramona Goldman?",
    "How did Silas Winterman earn his bread?",
    "In which parish book does the birth of Josephine Fairbrook stand?",
    "What stands on the shop sign of Alaric Sparrowby?",
)


def demo_paths() -> tuple[Path, Path]:
    """Where the weights of the bundled pair are.

    Returns
    -------
    tuple of Path
        Folders of the expert and of the amateur, each loadable by transformers, each with the tokenizer.
    """
    weights = Path(__file__).parent / "weights"
    return weights / "expert", weights / "amateur"


@lru_cache(maxsize=1)
def demo_world() -> World:
    """The world the bundled pair has read about."""
    return build_world(WorldSpec())


@lru_cache(maxsize=1)
def _all_questions() -> tuple[Question, ...]:
    return build_questions(demo_world())


def questions(split: Split = "test", phrasing: Phrasing = "seen", limit: int | None = None) -> list[Question]:
    """Questions about the world of the bundled pair.

    Parameters
    ----------
    split : {"test", "dev"}
        Test questions, or those meant for tuning. They ask about different facts.
    phrasing : {"seen", "held-out"}
        Forms of asking known from questions about others, or forms that training never used.
    limit : int, optional
        Return the first so many only; people and relations are in no particular order of difficulty.

    Returns
    -------
    list of Question
        Always the same ones in the same order.
    """
    chosen = [q for q in _all_questions() if q.split == split and q.phrasing == phrasing]
    return chosen if limit is None else chosen[:limit]

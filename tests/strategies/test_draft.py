"""Prompt lookup against a search that is written out."""

from hypothesis import given
from hypothesis import strategies as st

from descant.strategies.draft import _NGramIndex


def looked_up(tokens: list[int], longest: int, limit: int) -> list[int]:
    """What followed the last earlier occurrence of the longest ending that occurred before."""
    for size in range(min(longest, len(tokens) - 1), 0, -1):
        for end in range(len(tokens) - 1, size - 1, -1):
            if tokens[end - size : end] == tokens[-size:]:
                return tokens[end : end + limit]
    return []


@given(
    tokens=st.lists(st.integers(0, 3), min_size=1, max_size=60),
    steps=st.lists(st.integers(1, 7), max_size=12),
    longest=st.integers(1, 4),
    limit=st.integers(0, 6),
)
def test_lookup_finds_what_a_search_finds_as_the_text_grows(
    tokens: list[int], steps: list[int], longest: int, limit: int
) -> None:
    index = _NGramIndex(longest)
    length = 1
    for step in [0, *steps]:
        length = min(length + step, len(tokens))
        text = tokens[:length]
        assert index.look_up(text, limit) == looked_up(text, longest, limit)

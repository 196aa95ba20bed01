"""The stop matcher against a search in the whole text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from descant.errors import SettingsError
from descant.tokens import StopMatcher


def search(text: str, stops: list[str]) -> tuple[str, str | None]:
    """Write the text character by character until a stop string ends."""
    for end in range(1, len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            stop = max(ending, key=len)
            return text[: end - len(stop)], stop
    return text, None


def match(pieces: list[str], stops: list[str]) -> tuple[str, str | None]:
    matcher = StopMatcher(stops)
    shown = ""
    matched = None
    for piece in pieces:
        emitted, matched = matcher.push(piece)
        shown += emitted
    return shown + matcher.finish(), matched


texts = st.text(alphabet="abc", max_size=12)
stop_lists = st.lists(st.text(alphabet="abc", min_size=1, max_size=5), max_size=4)


@given(pieces=st.lists(texts, max_size=8), stops=stop_lists)
def test_outcome_is_that_of_a_search_in_the_whole_text(pieces: list[str], stops: list[str]) -> None:
    assert match(pieces, stops) == search("".join(pieces), stops)


@given(pieces=st.lists(texts, max_size=8), stops=stop_lists)
def test_cut_is_the_first_find_unless_a_stop_lies_within_another(pieces: list[str], stops: list[str]) -> None:
    text = "".join(pieces)
    within = any(a != b and a in b[1:-1] for a in stops for b in stops)
    places = [text.find(stop) for stop in stops if stop in text]
    if not within:
        assert match(pieces, stops)[0] == (text[: min(places)] if places else text)


@given(pieces=st.lists(texts, max_size=8), stops=stop_lists)
def test_what_is_shown_is_final_and_nothing_is_held_without_need(pieces: list[str], stops: list[str]) -> None:
    matcher, text, shown = StopMatcher(stops), "", ""
    for piece in pieces:
        text += piece
        emitted, matched = matcher.push(piece)
        shown += emitted
        assert text.startswith(shown)
        held = text[len(shown) :]
        if matched is not None:
            return
        assert not held or any(stop.startswith(held) and stop != held for stop in stops)


@given(pieces=st.lists(st.tuples(texts, st.booleans()), max_size=8), stops=stop_lists)
def test_hidden_text_is_searched_and_never_shown(pieces: list[tuple[str, bool]], stops: list[str]) -> None:
    before, found = search("".join(text for text, _ in pieces), stops)
    hidden = [mark for text, mark in pieces for _ in text]
    matcher, shown, matched = StopMatcher(stops), "", None
    for text, mark in pieces:
        emitted, matched = matcher.push(text, hidden=mark)
        shown += emitted
    shown += matcher.finish()
    assert (shown, matched) == ("".join(c for c, mark in zip(before, hidden, strict=False) if not mark), found)


def test_of_stops_that_end_together_the_longest_counts() -> None:
    assert match(["xx", "abc"], ["bc", "abc", "c"]) == ("xx", "abc")


def test_a_stop_within_another_counts_first() -> None:
    assert match(["xabcd"], ["abcd", "bc"]) == match(list("xabcd"), ["abcd", "bc"]) == ("xa", "bc")


def test_text_after_a_match_is_discarded() -> None:
    matcher = StopMatcher(["\n\n"])
    assert matcher.push("one\n") == ("one", None)
    assert matcher.push("\ntwo") == ("", "\n\n")
    assert matcher.push("three") == ("", "\n\n")
    assert matcher.finish() == ""


def test_no_stops_hold_nothing() -> None:
    assert StopMatcher([]).push("text") == ("text", None)


def test_unusable_stops_are_refused() -> None:
    with pytest.raises(SettingsError, match="empty"):
        StopMatcher(["a", ""])
    with pytest.raises(SettingsError, match="list of strings"):
        StopMatcher("abc")

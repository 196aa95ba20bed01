"""Stop strings: literal text that ends a row, wherever token boundaries fall."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from descant.errors import SettingsError


class StopMatcher:
    """Looks for stop strings in text that comes in pieces.

    Law: the outcome depends on the text alone, not on how it is cut into pieces. The stop that counts is the
    one whose last character comes first, as if the text were written character by character; of several that
    end there, the longest. Text returned never holds any part of it.

    Parameters
    ----------
    stop
        The stop strings, none empty.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        check_stops(stop)
        self._stops = tuple(stop)
        self._held = ""
        self._matched: str | None = None

    def push(self, text: str) -> tuple[str, str | None]:
        """Add text; return what cannot belong to a stop string any more, and the stop string found, if any.

        After a match, all further text is discarded.
        """
        if self._matched is not None:
            return "", self._matched
        text = self._held + text
        found = [(text.find(stop) + len(stop), -len(stop), stop) for stop in self._stops if stop in text]
        if found:
            end, _, self._matched = min(found)
            self._held = ""
            return text[: end - len(self._matched)], self._matched
        keep = len(text) - self._undecided(text)
        self._held = text[keep:]
        return text[:keep], None

    def finish(self) -> str:
        """Return the text that was held back: no stop string came of it."""
        held, self._held = self._held, ""
        return held

    def _undecided(self, text: str) -> int:
        """Count the characters at the text's end that may begin a stop string."""
        return max((_overlap(text, stop) for stop in self._stops), default=0)


def resolve_stops(tokenizer: PreTrainedTokenizerBase, stops: Sequence[str]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Separate stop strings from special tokens.

    Decoded text holds no special tokens, so a stop that is exactly one of them can only be found by its id.

    Returns
    -------
    strings
        The stops to look for in the text.
    token_ids
        The ids of the special tokens among the stops.
    """
    check_stops(stops)
    special = {token.content: token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special}
    special |= dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))
    strings = tuple(stop for stop in dict.fromkeys(stops) if stop not in special)
    return strings, tuple(dict.fromkeys(special[stop] for stop in stops if stop in special))


def check_stops(stops: Sequence[str]) -> None:
    """Refuse stop strings that would match everywhere, and a lone string where a list of them is meant."""
    if isinstance(stops, str):
        raise SettingsError(f"stop is a list of strings: write stop=[{stops!r}]")
    if not all(stops):
        raise SettingsError("a stop string is empty and would match everywhere: leave it out")


def _overlap(text: str, stop: str) -> int:
    """Count the characters of the longest end of `text` that is a beginning of `stop`, but not all of it."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)

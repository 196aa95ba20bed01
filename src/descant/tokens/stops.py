"""Stop strings: literal text that ends a row, wherever token boundaries fall."""

from collections.abc import Sequence

from descant.errors import SettingsError


class StopMatcher:
    """Looks for stop strings in text that comes in pieces.

    Law: the outcome depends on the text alone, not on how it is cut into pieces. The stop that counts is the
    one whose last character comes first, as if the text were written character by character; of several that
    end there, the longest. Text returned never holds any part of it, nor text that is hidden: special tokens, which
    stop strings may hold.

    Parameters
    ----------
    stop
        The stop strings, none empty.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        check_stops(stop)
        self._stops = tuple(stop)
        self._held: list[tuple[str, bool]] = []  # pieces of text, and whether each is hidden; never changed in place
        self._matched: str | None = None

    def push(self, text: str, *, hidden: bool = False) -> tuple[str, str | None]:
        """Add text; return what cannot belong to a stop string any more, and the stop string found, if any.

        After a match, all further text is discarded.
        """
        if self._matched is not None:
            return "", self._matched
        self._held = [*self._held, (text, hidden)]
        text = "".join(piece for piece, _ in self._held)
        found = [(text.find(stop) + len(stop), -len(stop), stop) for stop in self._stops if stop in text]
        if found:
            end, _, self._matched = min(found)
            certain = self._take(end - len(self._matched))
            self._held = []
            return certain, self._matched
        return self._take(len(text) - self._undecided(text)), None

    def finish(self) -> str:
        """Return the text that was held back: no stop string came of it."""
        return self._take(sum(len(piece) for piece, _ in self._held))

    def _take(self, count: int) -> str:
        """Remove the first characters of what is held, and return those of them that are not hidden."""
        shown, left = "", []
        for piece, hidden in self._held:
            if not hidden:
                shown += piece[:count]
            if piece[count:]:
                left.append((piece[count:], hidden))
            count = max(0, count - len(piece))
        self._held = left
        return shown

    def _undecided(self, text: str) -> int:
        """Count the characters at the text's end that may begin a stop string."""
        return max((_overlap(text, stop) for stop in self._stops), default=0)


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

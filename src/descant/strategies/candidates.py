"""How beams may go on, and which of them compete."""

from collections.abc import Sequence
from typing import NamedTuple


class Extension(NamedTuple):
    """One way in which a beam may go on.

    Attributes
    ----------
    place
        The row of scores that belongs to the beam.
    token_id, score
        The next token, and its score.
    total
        The sum of the sequence's scores with it, less what diversity costs.
    """

    place: int
    token_id: int
    score: float
    total: float


class Rivals(NamedTuple):
    """Beams that compete with each other.

    Attributes
    ----------
    places
        The row of scores of each beam, best beam first.
    totals
        The sum of each beam's scores.
    ends
        How many token ids end a sequence.
    """

    places: Sequence[int]
    totals: Sequence[float]
    ends: int

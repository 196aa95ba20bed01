"""Which of equal scores `torch.sort` puts last, without sorting a vocabulary.

transformers' top-p cuts a sorted vocabulary, and where the cut falls between equal scores, as it often does in half
precision, what is kept is the sort's choice. On a CPU torch sorts with the C++ library's `std::sort`, which is not
stable: which of two equal scores comes first depends on all the others. In libstdc++ that is introsort (Musser 1997,
"Introspective Sorting and Selection Algorithms"): partition around the median of three until 16 are left, then sort
those by insertion, which is stable. What stands behind a given place is therefore known from the parts that hold the
place, and partitioning these alone takes a tenth of the time.

Another library or another version of torch may sort in another way. `is_torchs_order` tells.
"""

from functools import cache

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

_INSERTION = 16
"""Parts up to this size are sorted by insertion."""


@cache
def is_torchs_order(dtype: torch.dtype) -> bool:
    """Tell whether this machine's `torch.sort` orders equals as assumed here, by trying."""
    scores = (torch.arange(5000) * 7919 % 5003 % 101).to(dtype)
    order = scores.sort().indices
    for kept in (1, 50, 700, 2500, 4990):
        last = last_in_order(scores, kept)
        if last is None or not torch.equal(last.sort().values, order[-kept:].sort().values):
            return False
    return True


def last_in_order(scores: Float[Tensor, " vocab"], count: int) -> Int64[Tensor, " count"] | None:
    """Return the tokens that the ascending order of `std::sort` ends with, in any order.

    Parameters
    ----------
    scores
        Of one position, without NaN.
    count
        How many, from 1 to all.

    Returns
    -------
    Token ids, or None where introsort would give up partitioning (it guards against quadratic time) and sort by heap.
    """
    values, tokens = scores.numpy().copy(), np.arange(len(scores))  # numpy finds places five times as fast
    place = len(values) - count
    kept: list[np.ndarray] = []
    partitions = 2 * (len(values).bit_length() - 1)
    while len(values) > _INSERTION:
        if partitions == 0:
            return None
        partitions -= 1
        values, tokens, cut, above = _narrow(values, tokens, place)
        if place < cut:
            kept.append(above)
        else:
            place -= cut
    order = values.argsort(kind="stable")
    return torch.from_numpy(np.concatenate([tokens[order[place:]], *kept]))


def _narrow(values: np.ndarray, tokens: np.ndarray, place: int) -> tuple[np.ndarray, np.ndarray, int, np.ndarray]:
    """Partition values, and their tokens with them; return the part that holds a place, both arrays of it.

    Then the size of the lower part, and the tokens of the upper one. Overwrites the arguments.

    Hoare's way: two fingers walk towards each other from both ends, and where each has met a value that may stand in
    the other part (an equal one may stand in either), the two are swapped. So the first that one finger meets is
    swapped with the first of the other, the second with the second, and so on until they cross. Only the part that is
    wanted is written.
    """
    median = _place_of_median(values)
    for array in (values, tokens):
        array[[0, median]] = array[[median, 0]]
    upper = np.flatnonzero(values[1:] >= values[0]) + 1
    lower = np.flatnonzero(values[1:] <= values[0])[::-1] + 1
    pairs = min(len(upper), len(lower))
    swaps = int((upper[:pairs] < lower[:pairs]).sum())
    cut = int(min([*upper[swaps : swaps + 1], *lower[:swaps][-1:]]))
    rising, falling = upper[:swaps], lower[:swaps]  # which stand below and above the cut
    above = tokens[cut:].copy()
    above[falling - cut] = tokens[rising]
    if place >= cut:
        part = values[cut:].copy()
        part[falling - cut] = values[rising]
        return part, above, cut, above
    values[rising], tokens[rising] = values[falling], tokens[falling]
    return values[:cut], tokens[:cut], cut, above


def _place_of_median(values: np.ndarray) -> int:
    """Return which of the second, the middle and the last value is the median; of equals, as `std::sort` does."""
    second, middle, last = 1, len(values) // 2, len(values) - 1
    a, b, c = values[[second, middle, last]].tolist()
    if a < b:
        return middle if b < c else last if a < c else second
    return second if a < c else last if b < c else middle

"""A vocabulary in the order of its bytes: which tokens begin with given bytes, and which are given bytes."""

import bisect
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


class PrefixIndex:
    """Finds tokens by their bytes; tokens with a common beginning are neighbours.

    Parameters
    ----------
    spelled
        The bytes of each id, None or empty for tokens that are never found.
    device
        Where the logits are.
    """

    def __init__(self, spelled: Sequence[bytes | None], device: torch.device) -> None:
        pairs = sorted((data, token_id) for token_id, data in enumerate(spelled) if data)
        self._keys = [data for data, _ in pairs]
        self._order = torch.tensor([token_id for _, token_id in pairs], dtype=torch.int64, device=device)
        self._ids: dict[bytes, list[int]] = {}
        for data, token_id in pairs:
            self._ids.setdefault(data, []).append(token_id)
        self._longest = max(map(len, self._keys), default=0)

    def ids(self, data: bytes) -> Sequence[int]:
        """Return the tokens that are these bytes."""
        return self._ids.get(data, ())

    def longest_match(self, data: bytes) -> tuple[int, bytes] | None:
        """Return a token with which bytes begin, of the greatest length, and its own bytes; None if there is none."""
        for length in range(min(len(data), self._longest), 0, -1):
            if data[:length] in self._ids:
                return self._ids[data[:length]][0], data[:length]
        return None

    def log_mass(self, logprobs: Float[Tensor, " vocab"], data: bytes) -> float:
        """Return the log of the probability of all tokens that begin with these bytes."""
        beyond = _beyond(data)
        first = bisect.bisect_left(self._keys, data)
        last = bisect.bisect_left(self._keys, beyond) if beyond else len(self._keys)
        return float(logprobs[self._order[first:last]].double().logsumexp(0)) if first < last else -torch.inf


def _beyond(data: bytes) -> bytes:
    """Return the least bytes above all that begin with these; empty if there are none."""
    stem = data.rstrip(b"\xff")
    return stem[:-1] + bytes([stem[-1] + 1]) if stem else b""

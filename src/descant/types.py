"""Names for the arrays that pass between descant's parts.

The annotations are jaxtyping's: shapes are checked wherever the tests run, and cost nothing elsewhere.
"""

from typing import Literal

from jaxtyping import Bool, Float, Int64
from torch import Tensor

Logits = Float[Tensor, "*positions vocab"]
"""Unnormalised next-token scores; also what a scoring or a processor returns (−inf: not allowed)."""

TokenIds = Int64[Tensor, "rows tokens"]
"""Token ids, rows padded on the right."""

Chosen = Int64[Tensor, "rows"]
"""One token id a row."""

Mask = Bool[Tensor, "*positions"]
"""One truth value a position."""

Candidates = Bool[Tensor, "*positions vocab"]
"""For every token of the vocabulary, whether it is meant."""

FinishReason = Literal["stop", "length", "cancelled"]
"""Why a row ended: an end-of-sequence id or stop string, the length limit, or a cancellation."""

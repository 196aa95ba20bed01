"""What a processor is: history and scores in, scores out."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float, Int64
from torch import Tensor


@dataclass(frozen=True)
class History:
    """The tokens that precede each of `n` positions, padded on the right.

    Several positions of one row (drafted tokens, say) are entries of their own: the same tokens with growing
    `lengths`. So a processor never needs to know about rows, padding or speculation.

    Attributes
    ----------
    tokens
        Token ids `[n, width]`, on the device of the scores. Entries from `lengths[i]` on are not history and may
        hold anything.
    lengths
        `[n]`: how many tokens precede position i, its prompt included.
    prompt_lengths
        `[n]`: how many of those are the prompt.
    batch_rows
        `[n]`: the row of each position, by its place in the call; None where nobody counts them.
    """

    tokens: Int64[Tensor, "n width"]
    lengths: Int64[Tensor, " n"]
    prompt_lengths: Int64[Tensor, " n"]
    batch_rows: Int64[Tensor, " n"] | None = None


class Processor(ABC):
    """Changes scores in the light of the history, or without it; stateless.

    Implementations are frozen dataclasses. Entry i of the result depends on entry i of the arguments alone, so
    rows never influence each other.

    Attributes
    ----------
    shift_invariant
        Whether a constant more on all scores of a position changes the result by a constant at most.
    capturable
        Whether a call is the same operations on the scores' device whatever their values, as a graph needs it. One that
        does not say so runs outside of graphs.
    rank
        Its place in the order in which transformers applies its own (see `canonical_order`): before or after 0, where
        processors of the user's own are.
    of_transformers
        The name that the first of its settings has in `GenerationConfig`; None where transformers has no such method.
    """

    shift_invariant: ClassVar[bool] = False
    capturable: ClassVar[bool] = False
    rank: ClassVar[int] = 0
    of_transformers: ClassVar[str | None] = None

    @abstractmethod
    def __call__(self, history: History, scores: Float[Tensor, "n vocab"]) -> Float[Tensor, "n vocab"]:
        """Return new scores `[n, vocab]`; −inf forbids a token. The arguments are not mutated."""

    def kept_places(
        self, scores: Float[Tensor, "n vocab"], temperature: float = 1.0
    ) -> Int64[Tensor, " places"] | None:
        """Return where in the flattened scores the tokens stand that a call with `scores / temperature` keeps.

        In any order, once each. None from processors that do more than keeping some, and where they are not found
        faster than by a call.
        """
        del scores, temperature
        return None

    def with_eos(self, eos_token_ids: tuple[int, ...]) -> "Processor":
        """Return the processor with the model's end-of-sequence ids filled in, where it asks for them.

        Only processors that treat the end of sequence specially override this.
        """
        del eos_token_ids
        return self

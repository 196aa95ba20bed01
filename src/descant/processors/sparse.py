"""Work on the few entries of the scores that a history names, without a pass over the vocabulary."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from descant.processors.base import History


def places_of(tokens: Int64[Tensor, "n places"]) -> Int64[Tensor, "1 places"]:
    """Return the places 0, 1, … of the tokens within their rows."""
    return torch.arange(tokens.shape[1], device=tokens.device)[None]


def generated(history: History) -> Bool[Tensor, "n width"]:
    """Return which tokens of the history are neither prompt nor padding."""
    place = places_of(history.tokens)
    return (place >= history.prompt_lengths[:, None]) & (place < history.lengths[:, None])


def change_where(
    scores: Float[Tensor, "n vocab"],
    ids: Int64[Tensor, "n places"],
    named: Bool[Tensor, "n places"],
    change: Callable[[Tensor], Tensor],
) -> Float[Tensor, "n vocab"]:
    """Return the scores with `change` applied once to each token that a row names.

    Parameters
    ----------
    scores
        `[n, vocab]`; not mutated.
    ids
        `[n, places]`: token ids, perhaps repeated; anything at all where `named` is false.
    named
        `[n, places]`: which of the ids count. Ids outside the vocabulary never do: a prompt may hold tokens
        that lie beyond the width that expert and amateur share.
    change
        Maps the scores `[n, places]` of the ids to new ones, place by place; equal ids of a row must get
        equal results. What it makes of places that are not named is discarded.
    """
    if ids.shape[1] == 0:
        return scores
    named = named & (ids >= 0) & (ids < scores.shape[1])
    ids = torch.where(named, ids, 0)
    before = scores.gather(1, ids)
    # A place that does not count repeats one that does, so that all writes to a token agree and their order
    # does not matter. A row that names nothing writes back what it read.
    first = named.to(torch.uint8).argmax(1, keepdim=True)
    source = torch.where(named, places_of(ids), first)
    after = torch.where(named.any(1, keepdim=True), change(before), before)
    return scores.scatter(1, ids.gather(1, source), after.gather(1, source))

"""Scores over a wide vocabulary, of which a CPU looks at the few that matter.

A pass over 16 × 152,000 scores takes a CPU about half a millisecond, one with an exponential three times that, and a
sort ten milliseconds a row: as much as a small model's forward pass. But one pass finds the greatest score of every 64
neighbours, and with that most questions are answered from a few blocks.

Whatever is computed for a row depends on that row alone, to the last bit.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

_BLOCK = 64
"""Neighbouring tokens that one maximum stands for."""

_WIDE = 4096
"""Vocabularies below this are not worth it."""

_FEW = 8
"""Up to one block in so many is looked at; beyond that, all scores are, without picking them out."""

_CACHED_SCORES = 1 << 18
"""Scores a thread works on at a time, so that the temporaries stay in its cache (2 to 3 times as fast)."""


def is_wide(scores: Float[Tensor, "n vocab"]) -> bool:
    """Tell whether `Blocks` pays: on a CPU, at a wide vocabulary. An accelerator would wait for the answers."""
    return scores.shape[-1] >= _WIDE and scores.device.type == "cpu" and len(scores) > 0


def in_parts(scores: Float[Tensor, "n vocab"]) -> list[slice]:
    """Cut the rows so that a part's temporaries stay in a CPU's cache; an accelerator takes all at once.

    There is one part at least.
    """
    at_once = torch.get_num_threads() * max(1, _CACHED_SCORES // max(1, scores.shape[-1]))
    if len(scores) <= at_once or scores.device.type != "cpu":
        return [slice(None)]
    return [slice(start, start + at_once) for start in range(0, len(scores), at_once)]


def log_total(scores: Float[Tensor, "n vocab"]) -> Float[Tensor, " n"]:
    """Return `log Σ exp(scores)` of each row; NaN where no score is finite."""
    if is_wide(scores):
        return Blocks(scores).log_total()
    return scores.amax(-1) - scores.log_softmax(-1).amax(-1)


def keep(scores: Float[Tensor, "n vocab"], places: Int64[Tensor, " places"]) -> Float[Tensor, "n vocab"]:
    """Return the scores with all forbidden but those at some places of the flattened scores."""
    kept = torch.full_like(scores, -torch.inf, memory_format=torch.contiguous_format)
    kept.view(-1)[places] = scores.take(places)
    return kept


def pick(
    scores: Float[Tensor, "n vocab"], places: Int64[Tensor, " places"]
) -> tuple[Float[Tensor, "n most"], Int64[Tensor, "n most"]] | None:
    """Return the scores at some places of the flattened scores, row by row in order of tokens, and the tokens.

    The places are given once each. Rows that have fewer than others end in scores of −inf. None if a row has no place,
    or so many that `Blocks.log_total` would not pick them out: its total is to be the same to the last bit either way.
    """
    places = places.sort().values
    row, token = places // scores.shape[1], places % scores.shape[1]
    counts = torch.bincount(row, minlength=len(scores))
    blocks = (row * scores.shape[1] + token // _BLOCK).unique_consecutive() // scores.shape[1]
    most = int(torch.bincount(blocks, minlength=len(scores)).amax())
    if most * _FEW > -(-scores.shape[1] // _BLOCK) or not bool(counts.all()):
        return None
    column = torch.arange(len(places)) - (counts.cumsum(0) - counts)[row]
    tokens = torch.zeros(len(scores), int(counts.amax()), dtype=torch.int64)
    values = torch.full(tokens.shape, -torch.inf, dtype=scores.dtype)
    tokens[row, column], values[row, column] = token, scores.take(places)
    return values, tokens


def divided(scores: Float[Tensor, "*any"], temperature: float) -> Float[Tensor, "*any"]:
    """Return scores over a temperature; themselves, if it is 1."""
    return scores if temperature == 1 else scores / temperature


def total_of_few(values: Float[Tensor, "n few"]) -> Float[Tensor, " n"]:
    """Return `log Σ exp(values)` of each row, the same however many values of −inf stand between or behind."""
    best = values.amax(-1, keepdim=True).double()
    # A running sum does not depend on how many zeros stand between, which the other rows decide.
    sums = (values.double() - best).exp_().cumsum(-1)[:, -1]
    return (best[:, 0] + sums.log()).to(values.dtype)


class Rows:
    """Rows of scores, whatever their vocabulary: looked at through their blocks where that pays.

    Parameters
    ----------
    scores
        `[n, vocab]`.
    """

    def __init__(self, scores: Float[Tensor, "n vocab"]) -> None:
        self.scores = scores
        self._blocks = Blocks(scores) if is_wide(scores) else None

    def best(self) -> Float[Tensor, "n 1"]:
        """Return each row's greatest score; NaN if it has one."""
        return self.scores.amax(-1, keepdim=True) if self._blocks is None else self._blocks.best()

    def log_probs(self) -> "Values":
        """Return the scores as log-probabilities, `scores − log Σ exp(scores)`."""
        if self._blocks is None:
            return Values(self.scores.log_softmax(-1))
        return Values(self.scores, self._blocks.log_total()[:, None])

    def at_least(
        self, least: Float[Tensor, "n 1"], formula: Callable[..., Tensor], *values: "Values"
    ) -> Float[Tensor, "n vocab"]:
        """Return `formula(*values)` of the tokens whose score is not below a limit, and −inf of all others.

        Parameters
        ----------
        least
            The limit. NaN is not below anything, nor is anything below NaN.
        formula
            Computes a token's value from that token's alone, into a tensor of its own.
        values
            Its arguments, for each token or each row.
        """
        places = None if self._blocks is None else self._blocks.places_from(least)
        if places is None:
            parts = []
            for part in in_parts(self.scores):
                found = formula(*(value.of(part) for value in values))
                parts.append(found.masked_fill_(self.scores[part] < least[part], -torch.inf))
            return parts[0] if len(parts) == 1 else torch.cat(parts)
        rows = places // self.scores.shape[1]
        found = torch.full_like(self.scores, -torch.inf, memory_format=torch.contiguous_format)
        found.view(-1)[places] = formula(*(value.at(places, rows) for value in values))
        return found


class Values(NamedTuple):
    """What a formula is given: a number a token or a row, less one a row, which is subtracted where it is looked at."""

    scores: Float[Tensor, "n _"]
    less: Float[Tensor, "n 1"] | None = None

    def of(self, part: slice) -> Float[Tensor, "part _"]:
        """Return the values of some rows."""
        return self.scores[part] if self.less is None else self.scores[part] - self.less[part]

    def at(self, places: Int64[Tensor, " places"], rows: Int64[Tensor, " places"]) -> Float[Tensor, " places"]:
        """Return the values at some places of the flattened scores, which lie in these rows."""
        values: Tensor = self.scores.take(rows if self.scores.shape[1] == 1 else places)
        return values if self.less is None else values - self.less.take(rows)


class Blocks:
    """Rows of scores with the maxima of their blocks; the last block may be shorter than the others.

    Parameters
    ----------
    scores
        `[n, vocab]`, for which `is_wide` holds. NaN counts as the greatest score.
    temperature
        What they are divided by, where they are looked at: that gives what dividing all of them first gives, for
        division keeps their order.
    """

    def __init__(self, scores: Float[Tensor, "n vocab"], temperature: float = 1.0) -> None:
        whole = scores.shape[1] // _BLOCK
        maxima: Tensor = scores[:, : whole * _BLOCK].unflatten(-1, (whole, _BLOCK)).amax(-1)
        if whole * _BLOCK < scores.shape[1]:
            maxima = torch.cat([maxima, scores[:, whole * _BLOCK :].amax(-1, keepdim=True)], -1)
        self.scores: Tensor = scores
        self.temperature = temperature
        self.maxima: Tensor = divided(maxima, temperature)

    def best(self) -> Float[Tensor, "n 1"]:
        """Return each row's greatest score."""
        return self.maxima.amax(-1, keepdim=True)

    def argmax(self) -> Int64[Tensor, " n"]:
        """Return the lowest of the tokens with each row's greatest score."""
        values, tokens = self._look_into(self.maxima.max(-1, keepdim=True).indices)
        return tokens.gather(1, values.max(-1, keepdim=True).indices)[:, 0]

    def top(self, k: int) -> tuple[Float[Tensor, "n k"], Int64[Tensor, "n k"]]:
        """Return each row's k greatest scores, best first, and tokens that have them: of equals at the edge, any."""
        # Whatever is among the k greatest stands in one of the k blocks with the greatest maxima, or equals what does.
        values, tokens = self._look_into(self.maxima.topk(min(k, self.maxima.shape[1])).indices)
        best = values.topk(min(k, self.scores.shape[1]))
        return best.values, tokens.gather(1, best.indices)

    def allowed(self) -> tuple[Float[Tensor, "n few"], Int64[Tensor, "n few"]] | None:
        """Return all scores above −inf in order of tokens, with others between them, or None if they are not few."""
        most = max(1, int((self.maxima > -torch.inf).sum(-1).amax()))
        return None if self._are_many(most) else self._look_into(self._first(most))

    def places_from(self, least: Float[Tensor, "n 1"]) -> Int64[Tensor, " places"] | None:
        """Return where in the flattened scores those not below a limit stand (perhaps twice), or None if not few.

        NaN is not below anything, nor is anything below NaN.
        """
        row, block = (~(self.maxima < least)).nonzero(as_tuple=True)
        if self._are_many(len(row) // len(self.scores)):
            return None
        token = (block[:, None] * _BLOCK + torch.arange(_BLOCK)).clamp_(max=self.scores.shape[1] - 1)
        row = row[:, None]
        values = divided(self.scores[row, token], self.temperature)
        return (row * self.scores.shape[1] + token)[~(values < least[row, 0])]

    def keep_from(self, least: Float[Tensor, "n 1"]) -> Float[Tensor, "n vocab"]:
        """Return the scores with those below a limit forbidden; not for a temperature."""
        places = self.places_from(least)
        if places is None:
            return torch.where(self.scores < least, -torch.inf, self.scores)
        return keep(self.scores, places)

    def log_total(self) -> Float[Tensor, " n"]:
        """Return `log Σ exp(scores)` of each row; NaN where no score is finite."""
        counts = (self.maxima > -torch.inf).sum(-1)
        few = counts * _FEW <= self.maxima.shape[1]
        if not bool(few.any()):
            return self._log_total_of_all()
        values, _ = self._look_into(self._first(max(1, int(counts[few].amax()))))
        of_few = total_of_few(values)
        return of_few if bool(few.all()) else torch.where(few, of_few, self._log_total_of_all())

    def _log_total_of_all(self) -> Float[Tensor, " n"]:
        # `logsumexp` takes twice as long, and ten times where most scores are −inf.
        parts = [
            divided(self.scores[part], self.temperature).log_softmax(-1).amax(-1) for part in in_parts(self.scores)
        ]
        return self.best()[:, 0] - torch.cat(parts)

    def _are_many(self, blocks: int) -> bool:
        """Tell whether so many blocks a row are better not picked out."""
        return blocks * _FEW > self.maxima.shape[1]

    def _first(self, count: int) -> Int64[Tensor, "n count"]:
        """Return the blocks with the greatest maxima, in order of tokens."""
        return self.maxima.topk(count).indices.sort().values

    def _look_into(
        self, blocks: Int64[Tensor, "n count"]
    ) -> tuple[Float[Tensor, "n tokens"], Int64[Tensor, "n tokens"]]:
        """Return the scores in blocks, and their tokens; −inf beyond the end of the vocabulary."""
        tokens = (blocks[:, :, None] * _BLOCK + torch.arange(_BLOCK)).flatten(1)
        beyond = tokens >= self.scores.shape[1]
        tokens.clamp_(max=self.scores.shape[1] - 1)
        values = divided(self.scores.gather(1, tokens), self.temperature)
        return values.masked_fill_(beyond, -torch.inf), tokens

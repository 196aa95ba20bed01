"""A strategy at work: what the loop asks of it, and what it may ask of the loop.

The loop admits rows, ends them, and keeps sources and history in step with them. In between it calls `Growth.step`,
which reads, judges and emits through `Loop`: that is all of a strategy's that runs, and the loop never names one.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from descant.errors import DecodingError
from descant.processors.base import Processor
from descant.processors.history import HistoryBuffer
from descant.processors.process import Few, logprobs
from descant.rows import Row
from descant.scoring.base import Scoring
from descant.sources.sources import Sources
from descant.strategies.drafts import Drafts
from descant.types import Chosen, Logits


@dataclass(frozen=True)
class Draws:
    """Where the randomness of each choice comes from.

    Attributes
    ----------
    generators
        One a choice, on the CPU. A generator may serve several choices of its row, which then take turns in order.
    batch_rows
        Each choice's row by its place in the call.
    batch_size
        Rows in the call, finished ones included.
    """

    generators: Sequence[torch.Generator]
    batch_rows: Sequence[int]
    batch_size: int

    def uniforms(self, device: torch.device) -> Float64[Tensor, " n"]:
        """Draw a number in [0, 1) for each choice, in order; on a device that has float64."""
        return torch.stack([torch.rand((), generator=g, dtype=torch.float64) for g in self.generators]).to(device)


@dataclass(frozen=True)
class Judged:
    """The verdict on some positions of a step.

    Attributes
    ----------
    rows
        `[n]`: the row of each position.
    logits
        Of the sources, `[n, vocab]` each.
    raw, scores
        `[n, vocab]`: what the scoring made of them, and the processors of that.
    few
        The scores of the tokens that the processors leave, in place of those of all; where that is known and enough.
    """

    rows: Sequence[int]
    logits: Mapping[str, Logits]
    raw: Float[Tensor, "n vocab"]
    scores: Float[Tensor, "n vocab_or_few"]
    few: Few | None = None

    def tokens(self, places: Chosen) -> tuple[Sequence[int], Sequence[float]]:
        """Return the tokens at one place of the scores a position, and their log-probabilities."""
        if self.few is None:
            return places.tolist(), logprobs(self.scores, places).tolist()
        return self.few.tokens.gather(-1, places[:, None])[:, 0].tolist(), self.few.logprobs(places).tolist()

    def fail(self, position: int, row: Row) -> NoReturn:
        """Raise, as a position's scores define no distribution: name the source that broke, or the processors."""
        where = f"at step {len(row.logprobs)} of row {row.index}"
        if float(self.scores[position].amax()) == -math.inf:
            raise DecodingError(
                f"the processors forbid every token {where}; allow more tokens (bad words, logit bias and bans "
                "exclude the whole vocabulary)"
            )
        broken = [name for name, values in self.logits.items() if not values[position].amax().isfinite()]
        source = f"logits of the {' and the '.join(broken)}" if broken else "scores after the processors"
        raise DecodingError(
            f"the {source} are not finite numbers {where}; the checkpoint is damaged or overflows its dtype: try "
            'dtype="float32"'
        )


class Loop(ABC):
    """What a strategy may ask of the loop.

    Attributes
    ----------
    rows
        Those that are decoded.
    sources
        The models, with the same rows.
    scoring, processors
        The method's.
    history
        The rows' tokens on the device; None without processors.
    batch_rows
        Rows of the whole call, finished ones included.
    """

    rows: list[Row]
    sources: Sources
    scoring: Scoring
    processors: tuple[Processor, ...]
    history: HistoryBuffer | None
    batch_rows: int

    @abstractmethod
    def judge_drafts(self, drafts: Drafts) -> Judged:
        """Read all rows with their drafts, and judge where the drafted tokens stand, row by row."""

    @abstractmethod
    def judge_ends(
        self,
        rows: Sequence[int] | None = None,
        drafts: Drafts | None = None,
        *,
        known: Mapping[str, Logits] | None = None,
        few: bool = False,
    ) -> Judged:
        """Judge what comes after some rows, all by default, and after all of their drafts, which were accepted.

        `known` are logits `[rows, vocab]` of sources that have read all rows. `few` tells that the scores of few tokens
        are enough, where the processors leave no more.
        """

    @abstractmethod
    def allowed(self, logits: Logits, drafted: Sequence[Sequence[int]]) -> Logits:
        """Return what the processors leave of a drafting model's logits `[rows, vocab]` after what it drafted."""

    @abstractmethod
    def emit(self, judged: Judged, places: Chosen, drafted: Sequence[int] | None = None) -> set[int]:
        """Append the tokens at some places of the scores to their rows, and record what was asked for beside them.

        Where tokens were drafted, a row takes what stands until it ends or departs from its draft.

        Returns
        -------
        The rows that have.
        """

    @abstractmethod
    def record(self, judged: Judged, emitted: Sequence[tuple[Row, int, int]]) -> None:
        """Record what was asked for of tokens that were appended: of each its row, its position, and the token."""

    @abstractmethod
    def replace_rows(self, rows: list[Row], places: Sequence[int]) -> None:
        """Make other rows the loop's; the i-th goes on from where row `places[i]` stood."""

    def draws(self, rows: Sequence[int]) -> Draws:
        """Return the randomness of one choice for each of some rows."""
        chosen = [self.rows[number] for number in rows]
        return Draws([row.generator for row in chosen], [row.index for row in chosen], self.batch_rows)


class Growth(ABC):
    """A strategy at work on the rows of a loop, with what it keeps between steps.

    Parameters
    ----------
    loop
        Whose rows grow.

    Attributes
    ----------
    width
        How many rows of the models a prompt comes to take.
    """

    width = 1

    def __init__(self, loop: Loop) -> None:
        self.loop = loop

    def __len__(self) -> int:
        """Return how many prompts are decoded."""
        return len(self.loop.rows)

    def join(self, joining: Sequence[Row]) -> None:
        """Take prompts in; the loop's rows end with them."""
        self.loop.sources.add_rows(len(joining), [row.other_prompts for row in joining])
        self.loop.sources.reserve(len(self) * self.width, max(row.limit for row in self.loop.rows))

    @abstractmethod
    def step(self) -> list[Row]:
        """Let every row grow by a token or more, and return those of which something is certain."""

    def keep_rows(self, rows: Sequence[int]) -> None:
        """Make old row `rows[i]` the new row i, in the models too."""
        self.loop.sources.keep_rows(rows)

    def cancel(self) -> list[Row] | None:
        """End everything at once and return what it has come to; None: every row is ended where it stands."""
        return None

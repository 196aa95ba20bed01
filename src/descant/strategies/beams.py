"""The beams of each prompt, and the sequences that have ended: what a beam search keeps between steps."""

import math
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

from descant.errors import DecodingError
from descant.numerics.wide import log_total
from descant.rows import Row
from descant.strategies.candidates import Extension, Rivals
from descant.strategies.growth import Draws, Growth, Loop

if TYPE_CHECKING:
    from descant.strategies.beam import Beam


@dataclass
class _Extended:
    """What became of all beams in one step.

    Attributes
    ----------
    made
        Every sequence that was made, whether it goes on or has ended, and the place of the beam that it extends.
    beams
        Those of them that go on.
    outcomes
        The best sequence of each prompt whose search is over, with the others as its alternatives.
    barren
        Prompts whose search is over without a sequence, because no token was allowed.
    """

    made: list[tuple[Row, int]] = field(default_factory=list)
    beams: list[tuple[Row, int]] = field(default_factory=list)
    outcomes: list[Row] = field(default_factory=list)
    barren: list[Row] = field(default_factory=list)


class Beams(Growth):
    """The searches of all prompts that are decoded.

    Parameters
    ----------
    strategy
        How to search.
    loop
        Whose rows are the beams of all prompts.
    """

    def __init__(self, strategy: "Beam", loop: Loop) -> None:
        super().__init__(loop)
        self._strategy = strategy
        self.width = strategy.width
        self._searches: list[_Search] = []

    def __len__(self) -> int:
        return len(self._searches)

    def join(self, joining: Sequence[Row]) -> None:
        """Begin searches, each with its prompt as the only beam."""
        self._searches += [_Search(row, self._strategy) for row in joining]
        super().join(joining)

    def step(self) -> list[Row]:
        """Extend all beams by a token, make those that go on the rows, and return what has ended.

        Before a search is over, no token of it is certain.
        """
        loop = self.loop
        judged = loop.judge_ends()
        best = judged.scores.amax(-1)
        normalized = not loop.processors and not loop.scoring.additive
        totals = (best - best if normalized else log_total(judged.scores)).tolist()  # 0, but NaN stays visible
        for place, total in enumerate(totals):
            if not math.isfinite(total) and float(judged.scores[place].amax()) != -math.inf:
                judged.fail(place, loop.rows[place])
        extended = self._extend(loop.rows, judged.scores, totals, judged.logits["expert"])
        if extended.barren:
            [row, *_] = extended.barren
            raise DecodingError(
                f"the processors forbid every continuation of row {row.index}, whose {self.width} beams have "
                "all come to an end; allow more tokens (bad words, logit bias and bans exclude the whole vocabulary)"
            )
        loop.record(judged, [(row, place, row.tokens[-1]) for row, place in extended.made])
        kept = _settle(extended.beams)
        loop.replace_rows([row for row, _ in kept], [place for _, place in kept])
        return extended.outcomes

    def _extend(
        self,
        rows: Sequence[Row],
        scores: Float[Tensor, "n vocab"],
        totals: Sequence[float],
        expert: Float[Tensor, "n vocab"],
    ) -> _Extended:
        """Extend all beams by a token.

        Parameters
        ----------
        rows
            All beams.
        scores, totals
            Processed scores of their next tokens, and the logarithms of those scores' total weights.
        expert
            The expert's logits.
        """
        place = {id(row): index for index, row in enumerate(rows)}
        open_groups = [(search, group) for search in self._searches for group in search.groups if not group.done]
        rivals = [group.rivals(place) for _, group in open_groups]
        prompts = [search.prompt for search, _ in open_groups]
        draws = Draws([row.generator for row in prompts], [row.index for row in prompts], self.loop.batch_rows)
        proposed = self._strategy.propose(rivals, scores, expert, draws)
        made = _Extended()
        chosen: dict[int, Counter[int]] = {}
        for (search, group), beams, candidates in zip(open_groups, rivals, proposed, strict=True):
            tokens = chosen.setdefault(search.prompt.index, Counter())
            going, ended = group.grow(self._strategy.shortlist(beams, candidates, tokens), rows, totals)
            tokens.update(group.chosen)
            made.made += going + ended
            made.beams += going if not group.done else ()
        over = [search for search in self._searches if search.done]
        made.barren = [search.prompt for search in over if not any(group.ended for group in search.groups)]
        made.outcomes = [] if made.barren else [search.outcome() for search in over]
        self._searches = [search for search in self._searches if not search.done]
        return made

    def cancel(self) -> list[Row]:
        """End all searches where they stand, and return what they have come to."""
        outcomes = []
        for search in self._searches:
            search.cancel()
            outcomes.append(search.outcome())
        self._searches = []
        self.loop.replace_rows([], [])
        return outcomes


def _settle(beams: Sequence[tuple[Row, int]]) -> list[tuple[Row, int]]:
    """Order beams, each with the place of the row that it extends, so that rows stay in place where they can."""
    slots: list[tuple[Row, int] | None] = [None] * len(beams)
    moving = []
    for beam in beams:
        _, place = beam
        if place < len(slots) and slots[place] is None:
            slots[place] = beam
        else:
            moving.append(beam)
    return [slot or moving.pop() for slot in slots]


class _Search:
    """The search of one prompt: its groups of beams."""

    def __init__(self, prompt: Row, strategy: "Beam") -> None:
        self.prompt = prompt
        self.groups = [_Group(prompt, strategy) for _ in range(strategy.groups)]

    @property
    def done(self) -> bool:
        """Whether all groups are."""
        return all(group.done for group in self.groups)

    def cancel(self) -> None:
        """End every beam where it stands."""
        for group in self.groups:
            group.cancel()

    def outcome(self) -> Row:
        """Return the best sequence that has ended, with the others as its alternatives."""
        ended = sorted((row for group in self.groups for row in group.ended), key=_score, reverse=True)
        now = time.perf_counter()
        for row in ended:
            row.ended_at = now
        if any(group.cancelled for group in self.groups):
            ended[0].finish_reason = "cancelled"
        ended[0].alternatives = ended[1:]
        return ended[0]


class _Group:
    """Beams of one prompt that compete with each other.

    Attributes
    ----------
    beams
        Those that go on, best first. They begin as one: the prompt.
    ended
        The best sequences that have ended, best first.
    done
        Whether nothing can change any more.
    cancelled
        Whether it was ended before that.
    chosen
        The tokens of the last step that did not end a sequence by themselves.
    """

    def __init__(self, prompt: Row, strategy: "Beam") -> None:
        self.beams = [prompt]
        self.ended: list[Row] = []
        self.done = False
        self.cancelled = False
        self.chosen: list[int] = []
        self._strategy = strategy
        self._length = 0
        self._limit = prompt.limit - prompt.prompt_length

    def rivals(self, place: dict[int, int]) -> Rivals:
        """Return the beams as the strategy sees them; `place` is where each row is, by its identity."""
        ends = len(self.beams[0].ending.token_ids)
        return Rivals([place[id(row)] for row in self.beams], [row.total for row in self.beams], ends)

    def grow(
        self, candidates: Sequence[Extension], rows: Sequence[Row], totals: Sequence[float]
    ) -> tuple[list[tuple[Row, int]], list[tuple[Row, int]]]:
        """Replace the beams by the best candidates that go on, and keep the best of those that end.

        Parameters
        ----------
        candidates
            Best first.
        rows, totals
            At the candidates' places: the beams, and the logarithms of their scores' total weights.

        Returns
        -------
        The sequences that go on and those that end, each with the place of the beam that it extends.
        """
        width = self._strategy.group_width
        going: list[tuple[Row, int]] = []
        ended: list[tuple[Row, int]] = []
        self.chosen = []
        for rank, candidate in enumerate(candidates):
            row = rows[candidate.place].fork()
            row.total = candidate.total
            row.append(candidate.token_id, candidate.score - totals[candidate.place])
            if row.finish_reason is None:
                going.append((row, candidate.place))
            elif rank < width:  # those beyond are looked at so that there are beams to go on with
                ended.append((row, candidate.place))
            if row.finish_reason != "stop":
                self.chosen.append(candidate.token_id)
            if len(self.chosen) == width:
                break
        self._length += 1
        self.beams = [row for row, _ in going]
        self._end([row for row, _ in ended], candidates[0].total if candidates else -math.inf)
        return going, ended

    def cancel(self) -> None:
        """End the beams where they stand."""
        if self.done:
            return
        for row in self.beams:
            row.finish("cancelled")
            self._keep([row])
        self.cancelled = self.done = True

    def _end(self, ended: Sequence[Row], best: float) -> None:
        """Keep what has ended, and decide whether more may come of the beams; `best` is the best candidate's total."""
        grouped = self._strategy.groups > 1
        self._keep(row for row in ended if row.finish_reason == "stop")
        if not grouped:  # transformers 4.55, which had groups, asked the best candidate, though it might have ended
            best = self.beams[0].total if self.beams else -math.inf
        decided = self._decided(best)
        self.done = decided or not self.beams
        if not (grouped and decided):  # all beams reach the length limit together
            self._keep(row for row in ended if row.finish_reason == "length")

    def _decided(self, best: float) -> bool:
        """Tell whether no beam is expected to beat the worst sequence that is kept."""
        strategy = self._strategy
        if len(self.ended) < strategy.group_width or strategy.early_stopping is True:
            return len(self.ended) == strategy.group_width
        longest = strategy.early_stopping == "never" and strategy.length_penalty > 0
        return strategy.score(best, self._limit if longest else self._length) <= _score(self.ended[-1])

    def _keep(self, rows: Iterable[Row]) -> None:
        """Keep sequences that have ended, if they are among the best."""
        for row in rows:
            row.score = self._strategy.score(row.total, len(row.logprobs))
            self.ended.append(row)
        self.ended = sorted(self.ended, key=_score, reverse=True)[: self._strategy.group_width]


def _score(row: Row) -> float:
    assert row.score is not None
    return row.score

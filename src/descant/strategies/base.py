"""What a strategy is: how sequences grow from the scores."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from descant.options import changed
from descant.rows import Row
from descant.strategies.drafts import Drafting
from descant.strategies.growth import Draws, Growth, Loop
from descant.types import Chosen

BEHIND = (1, 2, 3)
"""New tokens of a source that is asked now and then, or that drafts: one of its own rows is seldom further behind."""

Choice = Callable[[Float[Tensor, "n vocab"], Draws], Chosen]
"""Scores and randomness to one token id a row."""


class Strategy(ABC):
    """How sequences grow; a frozen dataclass of settings, whose work on some rows is a `Growth`."""

    @property
    @abstractmethod
    def random(self) -> bool:
        """Whether equal scores may lead to different tokens."""

    @abstractmethod
    def start(self, loop: Loop) -> Growth:
        """Return what lets the rows of a loop grow; it has none yet."""

    @property
    def whole_batch(self) -> bool:
        """Whether all rows of a call must be decoded at once."""
        return False

    @property
    def rows(self) -> int:
        """How many rows of the models a prompt takes at most."""
        return 1

    @property
    def rows_are(self) -> str:
        """What each of those rows is, in a word."""
        return "candidate"

    @property
    def sums_scores(self) -> bool:
        """Whether scores of positions are added up, so that no shift of them may be dropped."""
        return False

    @property
    def text_as_it_grows(self) -> bool:
        """Whether a row's text is certain before it ends."""
        return True

    @property
    def reads_hidden_states(self) -> bool:
        """Whether the expert's hidden states are read beside its logits."""
        return False

    @property
    def drafting(self) -> Drafting | None:
        """What drafts, if tokens are drafted and verified."""
        return None

    @property
    def captured_choice(self) -> Choice | None:
        """The whole step, if it is a choice of one token a row in the same operations whatever the values."""
        return None

    @property
    def of_transformers(self) -> Mapping[str, Any] | None:
        """The settings of `GenerationConfig` that give the same tokens; None where transformers has no such method."""
        return None

    heading: ClassVar[str] = ""
    """Under which its options stand in a help text."""

    def over(self, base: "TokenStrategy") -> "Strategy | None":
        """Return what chooses as another strategy does and grows in this one's way, or None where that cannot be."""
        del base
        return None

    @classmethod
    def in_place_of(cls, strategy: "Strategy") -> "Strategy | None":
        """Return one of this kind that takes a strategy's place and chooses as it does, or None where none can.

        One of this kind stays as it is.
        """
        return strategy if type(strategy) is cls else None

    def with_options(self, settings: Mapping[str, Any]) -> "Strategy":
        """Return this with other values of some options, by their names (see `descant.options`)."""
        found, _ = changed(self, settings)
        assert isinstance(found, Strategy)
        return found

    def cost(self, expert: str) -> str:
        """Return what a token costs in passes of the expert, of which one is described by `expert`."""
        return expert

    def passes(self, source: str, *, drafts: bool) -> Iterator[tuple[int, bool, int]]:
        """Yield the shapes of a source's passes: new tokens, whether logits of all are read, drafts that follow.

        Parameters
        ----------
        source
            Its name.
        drafts
            Whether it is the one that drafts.
        """
        del drafts
        yield from ((tokens, False, 0) for tokens in ((1,) if source == "expert" else BEHIND))


class TokenStrategy(Strategy):
    """Gives every row its next token, whatever the other rows are."""

    def over(self, base: "TokenStrategy") -> Strategy | None:
        return base

    @property
    def of_allowed(self) -> bool:
        """Whether choosing among the allowed tokens alone, in their order, is choosing among all."""
        return False

    @abstractmethod
    def choose(self, scores: Float[Tensor, "n vocab"], draws: Draws) -> Chosen:
        """Return one token id a row; every row has at least one score above −inf."""

    def start(self, loop: Loop) -> Growth:
        return Tokens(self, loop)


class Tokens(Growth):
    """One token a row a step."""

    def __init__(self, strategy: TokenStrategy, loop: Loop) -> None:
        super().__init__(loop)
        self._strategy = strategy

    def step(self) -> list[Row]:
        rows = self.loop.rows
        judged = self.loop.judge_ends(few=self._strategy.of_allowed)
        self.loop.emit(judged, self._strategy.choose(judged.scores, self.loop.draws(range(len(rows)))))
        return rows

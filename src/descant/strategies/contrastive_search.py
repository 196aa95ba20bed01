"""Contrastive search: of the most probable tokens, the one that repeats its context least.

Of the k most probable tokens V_k, each read by the model, take

    argmax over v in V_k of  (1 − α) · p(v | x) − α · max over j of cos(h_v, h_{x_j})

where h are the final hidden states, that enter the output head: of a candidate v, and of every token of the text x
before it, the prompt included. The penalty is high for a token whose state is like one that has been: degeneration
into loops. Nothing is drawn. The name is the papers'; it contrasts no models, yet any scoring may give p.

- Su et al. 2022, "A Contrastive Framework for Neural Text Generation" (arXiv 2202.06417).
- Su & Collier 2022, "Contrastive Search Is What You Need For Neural Text Generation" (arXiv 2210.14140).
- Tokens are those of transformers up to 4.55 (`penalty_alpha=α, top_k=k`), but that never a forbidden token is taken:
  there, one of k candidates at probability 0 may win by its penalty.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from descant.checks import number, whole
from descant.options import option
from descant.strategies.base import Strategy
from descant.strategies.greedy import Greedy
from descant.strategies.growth import Growth, Loop
from descant.strategies.lookahead import Lookahead


@dataclass(frozen=True)
class ContrastiveSearch(Strategy):
    """Take the best of k candidates by probability less likeness to the text.

    The probability is the softmax of the processed scores, whatever the scoring; the hidden states are the expert's.
    A step takes one pass of the expert over k candidates a row, which is also the next step's reading; it runs
    eagerly, because compiled passes do not show their hidden states.

    Parameters
    ----------
    k
        How many candidates; 1 is greedy.
    penalty
        α, the weight of the degeneration penalty, from 0 (greedy) to 1.
    """

    heading = "Contrastive search: either of these makes a method take the candidate that is least like the text"

    k: int = option("search_candidates", "Of the N most probable tokens; 4.", default=4, of="N")
    penalty: float = option("search_penalty", "Weight of the likeness, from 0 (greedy) to 1; 0.6.", default=0.6)

    def __post_init__(self) -> None:
        k = whole("ContrastiveSearch.k", self.k, 1, "give a whole number from 1 (4 to 10 are usual)")
        remedy = "give a number from 0 (greedy) to 1"
        penalty = number("ContrastiveSearch.penalty", self.penalty, lambda x: 0 <= x <= 1, remedy)
        object.__setattr__(self, "k", k)
        object.__setattr__(self, "penalty", penalty)

    @property
    def random(self) -> bool:
        return False

    @property
    def rows(self) -> int:
        return self.k

    @property
    def reads_hidden_states(self) -> bool:
        return True

    @classmethod
    def in_place_of(cls, strategy: Strategy) -> "ContrastiveSearch | None":
        if isinstance(strategy, ContrastiveSearch):
            return strategy
        return cls() if isinstance(strategy, Greedy) else None

    def start(self, loop: Loop) -> Growth:
        return Lookahead(loop, self.k, self.select)

    def cost(self, expert: str) -> str:
        return f"{expert} × {self.k} rows"

    def select(self, logprobs: Float[Tensor, "rows k"], similarity: Float[Tensor, "rows k"]) -> Int64[Tensor, " rows"]:
        """Return the place of each row's best candidate, the first of equal ones.

        Parameters
        ----------
        logprobs
            Of the candidates; −inf forbids one. Each row has one that is not forbidden.
        similarity
            Each candidate's greatest cosine with a token of its text.
        """
        scores = (1 - self.penalty) * logprobs.exp() - self.penalty * similarity
        return torch.where(logprobs > -torch.inf, scores, -torch.inf).max(-1).indices

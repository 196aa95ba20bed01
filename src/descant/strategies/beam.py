"""Beam search: the best of many continuations, judged by the sums of their tokens' scores.

Every step extends each beam of a prompt by every token and keeps the `width` extensions with the greatest sums. A
sequence that ends leaves the beams and is kept with the score `sum / length ** length_penalty`; the search ends when
no beam is expected to beat the worst of `width` such sequences. Candidates, stopping and length penalty are those of
transformers 5.24 (`model.generate(num_beams=width)`).

- Group beam search: Vijayakumar et al. 2016, "Diverse Beam Search" (arXiv 1610.02424), with Hamming diversity, as
  transformers had it up to 4.55 (`num_beam_groups`, `diversity_penalty`).
- Contrastive beam search sums `log p_E(x) − log p_A(x)`: Li et al. 2022, "Contrastive Decoding" (arXiv 2210.15097).
- Beams that are drawn: transformers' beam-search multinomial sampling (`num_beams=width, do_sample=True`). What is
  drawn is ranked by its total, as from release 5.24 on; before, the order of the draws decided which endings counted.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from descant.checks import number, shown, whole
from descant.errors import SettingsError
from descant.numerics.wide import Blocks, is_wide
from descant.options import option
from descant.strategies.base import Strategy, TokenStrategy
from descant.strategies.beams import Beams
from descant.strategies.candidates import Extension, Rivals
from descant.strategies.greedy import Greedy
from descant.strategies.growth import Draws, Growth, Loop
from descant.strategies.sample import Sample

_DIVERSITY = 0.5
"""Where groups are asked for and nothing is said of it."""


@dataclass(frozen=True)
class Beam(Strategy):
    """Search for the sequence with the best total score.

    Scores of different positions are added up, so they are log-probabilities first: a scoring whose values are logits
    is brought through `log_softmax` before the processors, as in transformers, and never normalised after them. The
    difference form of `Contrastive` is added up as it is.

    Parameters
    ----------
    width
        How many beams a prompt has.
    length_penalty
        A sequence scores `sum / length ** length_penalty`: log-probabilities being negative, above 0 favours long
        sequences and below 0 short ones. The length counts new tokens.
    early_stopping
        True: end with `width` finished sequences. False: when the best beam would score less than the worst of them
        if it ended now. `"never"`: when it would even at the best length still possible.
    groups
        Cut the beams into so many groups, each a search of its own that shuns what the groups before it chose.
    diversity
        What a token costs at a step, for each beam of an earlier group that chose it there. It is taken from the
        processed scores; transformers took it before its repetition penalty, which multiplied it.
    base
        `Greedy()` takes the best extensions; `Sample()` draws them without replacement, each as probable as the
        softmax of the totals has it, and keeps the best of those that do not end.
    ranking
        Which extensions are looked at: `"score"`, the best by their totals; or `"expert"`, the `2 · width` that the
        expert finds most probable at this step, whatever their beams' totals, as the released code of contrastive
        decoding has it, which also sets `Contrastive(min_tokens_to_keep=2, normalization="released")`.
    """

    heading = "Beams: any of these makes a method search for the sequence with the best total score"

    width: int = option("beams", "Follow the N best sequences; 4.", default=4, of="N")
    length_penalty: float = option(
        "length_penalty", "Divide a sequence's score by its length to the power of X; 1.", default=1.0, quiet=True
    )
    early_stopping: bool | Literal["never"] = option(
        "early_stopping",
        "When N have ended: true, false (if none may be better) or never.",
        default=False,
        of="NAME",
        words={"true": True, "false": False, "never": "never"},
        quiet=True,
    )
    groups: int = option("beam_groups", "Cut the beams into N groups that differ.", default=1, of="N", quiet=True)
    diversity: float = option(
        "diversity", "What a token costs that an earlier group has chosen; 0.5.", default=0.0, quiet=True
    )
    base: TokenStrategy = field(default_factory=Greedy)
    ranking: Literal["score", "expert"] = "score"

    def __post_init__(self) -> None:
        width = whole("Beam.width", self.width, 1, "give a whole number from 1 (4 is usual)")
        remedy = "give a finite number; 1 is the mean score of a token, 0 the plain sum"
        checked: dict[str, Any] = {
            "width": width,
            "length_penalty": number("Beam.length_penalty", self.length_penalty, math.isfinite, remedy),
            "groups": whole("Beam.groups", self.groups, 1, f"give a divisor of width={width}", most=width),
            "diversity": number("Beam.diversity", self.diversity, lambda x: 0 <= x < math.inf, "give a number from 0"),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        if not isinstance(self.early_stopping, bool) and self.early_stopping != "never":
            raise SettingsError(f'Beam.early_stopping is {shown(self.early_stopping)}; give True, False or "never"')
        if not isinstance(self.base, (Greedy, Sample)):
            raise SettingsError(f"Beam.base is {shown(self.base)}; give Greedy() or Sample()")
        if self.ranking not in ("score", "expert"):
            raise SettingsError(f'Beam.ranking is {shown(self.ranking)}; give "score" or "expert"')
        if self.ranking == "expert" and self.base.random:
            raise SettingsError(
                'Beam.ranking="expert" chooses the candidates, and Sample() draws them; drop one of them'
            )
        self._check_groups()

    def _check_groups(self) -> None:
        if self.width % self.groups:
            raise SettingsError(f"Beam.groups is {self.groups}; give a divisor of width={self.width}")
        if self.groups == 1 and self.diversity:
            raise SettingsError(
                "Beam.diversity acts between groups, and there is one; give groups=2 or more, or drop it"
            )
        if self.groups > 1 and not self.diversity:
            raise SettingsError("Beam.groups are all the same without diversity; give diversity=0.5, say, or groups=1")
        if self.groups > 1 and (self.base.random or self.ranking == "expert"):
            other = 'ranking="expert"' if self.ranking == "expert" else "Sample()"
            raise SettingsError(
                f"Beam.groups rank their candidates by diversity, not as {other} does; drop one of them"
            )

    @property
    def random(self) -> bool:
        return self.base.random

    @property
    def whole_batch(self) -> bool:
        return self.base.whole_batch

    @property
    def rows(self) -> int:
        return self.width

    @property
    def rows_are(self) -> str:
        return "beam"

    @property
    def sums_scores(self) -> bool:
        return True

    @property
    def text_as_it_grows(self) -> bool:
        return False

    @property
    def of_transformers(self) -> Mapping[str, Any] | None:
        if self.width == 1 or self.groups > 1 or self.ranking != "score" or self.random:
            return None  # where beams are drawn, transformers' truncations keep more tokens
        return {
            "num_beams": self.width, "length_penalty": self.length_penalty, "early_stopping": self.early_stopping
        }  # fmt: skip

    def over(self, base: TokenStrategy) -> "Beam":
        return replace(self, base=base)

    @classmethod
    def in_place_of(cls, strategy: Strategy) -> "Beam | None":
        if isinstance(strategy, Beam):
            return strategy
        return cls(base=strategy) if isinstance(strategy, (Greedy, Sample)) else None

    def with_options(self, settings: Mapping[str, Any]) -> Strategy:
        if settings.get("beam_groups", 1) > 1 and not self.diversity:
            settings = {"diversity": _DIVERSITY, **settings}  # groups would be all the same
        return super().with_options(settings)

    def start(self, loop: Loop) -> Growth:
        return Beams(self, loop)

    @property
    def group_width(self) -> int:
        """How many beams compete with each other."""
        return self.width // self.groups

    def propose(
        self,
        rivals: Sequence[Rivals],
        scores: Float[Tensor, "n vocab"],
        expert: Float[Tensor, "n vocab"],
        draws: Draws,
    ) -> list[list[Extension]]:
        """Return how the beams of each group may go on, best first: enough that `shortlist` lacks none.

        Parameters
        ----------
        rivals
            The groups.
        scores
            Processed scores of the next token, one row a beam.
        expert
            The expert's logits.
        draws
            The randomness of each group.
        """
        if isinstance(self.base, Sample):
            return self._draw(rivals, scores, draws, transformers=self.base.rng == "transformers")
        # Diversity strikes at most one token for each beam of the other groups.
        count = max(map(self._looked_at, rivals)) + (self.width if self.groups > 1 else 0)
        if self.ranking == "expert":
            ranks, ids = _best(expert.log_softmax(-1), count)
            values = scores.gather(-1, ids)
        else:
            ranks, ids = values, _ = _best(scores, count)
        listed = list(zip(ranks.tolist(), ids.tolist(), values.tolist(), strict=True))
        return [self._rank(group, listed) for group in rivals]

    def shortlist(self, rivals: Rivals, candidates: Sequence[Extension], chosen: Counter[int]) -> list[Extension]:
        """Return the candidates that are looked at, less what was chosen by other groups, best first."""
        if chosen:
            struck = [x._replace(total=x.total - self.diversity * chosen[x.token_id]) for x in candidates]
            candidates = sorted(struck, key=_total, reverse=True)
        return list(candidates[: self._looked_at(rivals)])

    def score(self, total: float, length: int) -> float:
        """Return the score of a sequence of so many new tokens."""
        return total / math.pow(length, self.length_penalty)

    def _looked_at(self, rivals: Rivals) -> int:
        """Return how many extensions are looked at: if all that can end do, there are beams to go on with."""
        return max(2, 1 + rivals.ends) * self.group_width

    def _rank(self, rivals: Rivals, listed: Sequence[tuple[list[float], list[int], list[float]]]) -> list[Extension]:
        found = [
            (rank, Extension(place, token_id, score, total + score))
            for place, total in zip(rivals.places, rivals.totals, strict=True)
            for rank, token_id, score in zip(*listed[place], strict=True)
        ]
        if self.ranking == "expert":
            found = sorted(found, key=_first, reverse=True)[: self._looked_at(rivals)]
        return sorted((x for _, x in found if x.score > -math.inf), key=_total, reverse=True)

    def _draw(
        self, rivals: Sequence[Rivals], scores: Float[Tensor, "n vocab"], draws: Draws, *, transformers: bool
    ) -> list[list[Extension]]:
        """Draw extensions without replacement; as transformers does, for all prompts of the call at once."""
        scores = scores.float()
        vocab = scores.shape[-1]
        weights = []
        for group in rivals:
            totals = torch.tensor(group.totals, dtype=scores.dtype, device=scores.device)[:, None]
            weights.append((scores[list(group.places)] + totals).flatten().softmax(-1))
        if transformers:
            # Beams that do not exist have no weight, and prompts that have ended draw for nobody.
            every = torch.ones(draws.batch_size, self.width * vocab, device=scores.device)
            for place, weight in zip(draws.batch_rows, weights, strict=True):
                every[place] = torch.nn.functional.pad(weight, (0, every.shape[1] - len(weight)))
            count = min(self._looked_at(rivals[0]), every.shape[1])
            drawn = torch.multinomial(every, count)[list(draws.batch_rows)].tolist()
        else:
            drawn = [
                torch.multinomial(weight.cpu(), min(self._looked_at(group), len(weight)), generator=generator).tolist()
                for group, weight, generator in zip(rivals, weights, draws.generators, strict=True)
            ]
        return [_candidates(group, flat, scores) for group, flat in zip(rivals, drawn, strict=True)]


def _candidates(rivals: Rivals, flat: Sequence[int], scores: Float[Tensor, "n vocab"]) -> list[Extension]:
    """Return the candidates at places of the flattened scores of a group, best first, without those that cannot be."""
    pairs = [divmod(place, scores.shape[-1]) for place in flat if place < len(rivals.places) * scores.shape[-1]]
    places = [rivals.places[beam] for beam, _ in pairs]
    ids = [token_id for _, token_id in pairs]
    values = scores[places, ids].tolist()
    totals = [rivals.totals[beam] + value for (beam, _), value in zip(pairs, values, strict=True)]
    found = map(Extension, places, ids, values, totals)
    return sorted((x for x in found if x.score > -math.inf), key=_total, reverse=True)


def _best(scores: Float[Tensor, "n vocab"], count: int) -> tuple[Tensor, Tensor]:
    """Return each row's best scores and their tokens, best first."""
    if is_wide(scores):
        return Blocks(scores).top(count)
    values, ids = scores.topk(min(count, scores.shape[-1]))
    return values, ids


def _total(candidate: Extension) -> float:
    return candidate.total


def _first(pair: tuple[float, Extension]) -> float:
    return pair[0]

"""Perplexity: how surprising texts are to a judge model, given their prompts.

    perplexity = exp( − Σ_texts Σ_t log p(x_t | prompt, x_<t) / Σ_texts |x| )

over all tokens of all texts, as the judge's tokenizer cuts them (Jelinek et al. 1977). Low is probable, not good: beam
search has the lowest, human text a middling one (Holtzman et al. 2020, arXiv 1904.09751), so neither end is better.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from descant.decoder import Decoder
from descant.evaluation.generations import Generation
from descant.evaluation.metrics.base import CorpusMetric
from descant.scoring import Likelihood


@dataclass(frozen=True)
class Perplexity(CorpusMetric):
    """Perplexity under a model; empty texts have no token to be surprised by and count for nothing.

    Parameters
    ----------
    judge
        Its expert judges.
    """

    judge: Decoder

    @property
    def name(self) -> str:
        """Its name."""
        return "perplexity"

    @property
    def resampled(self) -> bool:
        """A ratio of sums can be resampled."""
        return True

    def statistic(self, generations: Sequence[Generation]) -> Callable[[Sequence[int]], float]:
        """Return the perplexity as a function of the texts; NaN if all are empty."""
        written = [index for index, generation in enumerate(generations) if generation.text]
        scores = self.judge.score(
            [generations[index].task.prompt for index in written],
            [generations[index].text for index in written],
            Likelihood(),
        )
        surprise, tokens = [0.0] * len(generations), [0] * len(generations)
        for index, score in zip(written, scores, strict=True):
            surprise[index], tokens[index] = -float(score), len(score.token_ids)

        def perplexity(chosen: Sequence[int]) -> float:
            total = sum(tokens[index] for index in chosen)
            return math.exp(sum(surprise[index] for index in chosen) / total) if total else math.nan

        return perplexity

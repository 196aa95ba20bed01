"""Perplexity: how surprising texts are to a judge model, given their prompts.

    perplexity = exp( − Σ_texts Σ_t log p(x_t | prompt, x_<t) / Σ_texts |x| )

over all tokens of all texts, as the judge's tokenizer cuts them (Jelinek et al. 1977). Low is probable, not good: beam
search has the lowest, human text a middling one (Holtzman et al. 2020, arXiv 1904.09751), so neither end is better.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from descant.decoder import Decoder
from descant.lab.metrics.base import CorpusMetric
from descant.lab.studies.generations import Generation
from descant.lab.studies.identity import digest, identify, versions
from descant.lab.studies.lines import Lines
from descant.scoring import Likelihood

_AT_ONCE = 64
"""Texts that are read before their figures are written down."""


@dataclass(frozen=True)
class Perplexity(CorpusMetric):
    """Perplexity under a model; empty texts have no token to be surprised by and count for nothing.

    Parameters
    ----------
    judge
        Its expert judges. It reads a prompt as it stands, without chat template or system prompt.
    folder
        Where what was read is kept, so that no text is read twice; None: nowhere. It plays no part in the figure.
    """

    judge: Decoder
    folder: Path | None = field(default=None, compare=False)

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
        pairs = [(generations[index].task.prompt, generations[index].text) for index in written]
        known = self._read(list(dict.fromkeys(pairs)))
        surprise, tokens = [0.0] * len(generations), [0] * len(generations)
        for index, pair in zip(written, pairs, strict=True):
            surprise[index], tokens[index] = known[pair]

        def perplexity(chosen: Sequence[int]) -> float:
            total = sum(tokens[index] for index in chosen)
            return math.exp(sum(surprise[index] for index in chosen) / total) if total else math.nan

        return perplexity

    def _read(self, pairs: Sequence[tuple[str, str]]) -> dict[tuple[str, str], tuple[float, int]]:
        """Return each text's surprise after its prompt, and its number of tokens."""
        lines = None if self.folder is None else Lines(self.folder, "perplexity", self._settings())
        kept = {} if lines is None else {key: (surprise, tokens) for key, surprise, tokens in lines.read()}
        found = {pair: kept[key] for pair in pairs if (key := digest(pair)) in kept}
        missing = [pair for pair in pairs if pair not in found]
        for start in range(0, len(missing), _AT_ONCE):
            part = missing[start : start + _AT_ONCE]
            scores = self.judge.score([prompt for prompt, _ in part], [text for _, text in part], Likelihood())
            new = {pair: (-float(score), len(score.token_ids)) for pair, score in zip(part, scores, strict=True)}
            if lines is not None:
                lines.append([digest(pair), *figures] for pair, figures in new.items())
            found |= new
        return found

    def _settings(self) -> dict[str, Any]:
        return {"judge": identify(self.judge.expert), "runner": self.judge.runner, "versions": versions()}

"""Coherence: how near a continuation stays to its prompt.

    coherence(x, x̂) = cos(EMB(x), EMB(x̂))              (Su et al. 2022, arXiv 2202.06417; Li et al. 2022, 2210.15097)

The papers embed with SimCSE; the default here is the mean of a model's last hidden states, whose cosines are larger
throughout: compare methods under one embedder, never figures of two.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from descant.lab.metrics.base import Better, TextMetric
from descant.lab.metrics.embedding import Embedder
from descant.lab.studies.generations import Generation
from descant.lab.studies.tasks import TaskSet


@dataclass(frozen=True)
class Coherence(TextMetric):
    """Cosine of the embeddings of prompt and continuation, from −1 to 1.

    Parameters
    ----------
    embedder
        Texts → vectors, such as `PooledHiddenState(decoder)`.
    """

    embedder: Embedder

    @property
    def name(self) -> str:
        """Its name."""
        return "coherence"

    def better(self, column: str) -> Better:  # noqa: ARG002
        """More of it."""
        return "higher"

    def scores(self, generations: Sequence[Generation], task_set: TaskSet) -> Mapping[str, Sequence[float]]:  # noqa: ARG002
        """Return the cosine for each text; NaN for an empty one."""
        prompts = list(dict.fromkeys(generation.task.prompt for generation in generations))
        place = {prompt: index for index, prompt in enumerate(prompts)}
        before = self.embedder(prompts)[[place[generation.task.prompt] for generation in generations]]
        after = self.embedder([generation.text for generation in generations])
        products = (before * after).sum(axis=1)
        norms = np.linalg.norm(before, axis=1) * np.linalg.norm(after, axis=1)
        cosines = np.divide(products, norms, out=np.full(len(products), np.nan), where=norms > 0)
        return {self.name: cosines.tolist()}

"""MAUVE: how much the distribution of a corpus resembles that of the references.

The area under the curve of (exp(−c·KL(Q‖R_λ)), exp(−c·KL(P‖R_λ))), R_λ = λP + (1−λ)Q, where P and Q are the histograms
of references and texts over clusters of their embeddings, and c = 5 (Pillutla et al. 2021, arXiv 2102.01454).

The package `mauve-text` computes it. It is GPL-3.0 and brings faiss, so it is an extra of its own. The paper asks for
some thousand texts of one length; with few, figures are too high and rank methods by luck. A text drawn twice would
make a cluster of its own, so there is no bootstrap interval.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from descant.checks import number
from descant.errors import SettingsError
from descant.lab.metrics.base import Better, CorpusMetric
from descant.lab.metrics.embedding import Embedder
from descant.lab.studies.generations import Generation


@dataclass(frozen=True)
class Mauve(CorpusMetric):
    """MAUVE of the texts against their tasks' references, prompts not included.

    Parameters
    ----------
    embedder
        Texts → vectors; the paper's are a model's last hidden state, `PooledHiddenState(decoder, "last")`.
    scaling
        The c of the paper.
    """

    embedder: Embedder
    scaling: float = 5.0

    def __post_init__(self) -> None:
        number("mauve's scaling", self.scaling, lambda x: 0 < x < math.inf, "give a number above 0; 5 is the paper's")
        _package()  # a study learns at its start that the package is missing

    @property
    def name(self) -> str:
        """Its name."""
        return "MAUVE"

    @property
    def packages(self) -> Sequence[str]:
        """The reference implementation."""
        return ("mauve-text",)

    def better(self, column: str) -> Better:  # noqa: ARG002
        """More of it."""
        return "higher"

    def statistic(self, generations: Sequence[Generation]) -> Callable[[Sequence[int]], float]:
        """Return MAUVE as a function of the texts; tasks without a reference, and empty texts, do not count."""
        known = {index for index, entry in enumerate(generations) if entry.task.reference and entry.text}

        def of(chosen: Sequence[int]) -> float:
            pairs = [(generations[i].task.reference or "", generations[i].text) for i in chosen if i in known]
            if len(pairs) < 2:
                return math.nan
            references, texts = (self.embedder(side) for side in zip(*pairs, strict=True))
            return mauve(references, texts, self.scaling)

        return of


def mauve(
    references: Float[np.ndarray, "references dim"], texts: Float[np.ndarray, "texts dim"], scaling: float = 5.0
) -> float:
    """Return MAUVE of given features, from 0 to 1.

    Raises
    ------
    SettingsError
        If `mauve-text` is not installed.
    """
    found = _package().compute_mauve(references, texts, mauve_scaling_factor=scaling, verbose=False)
    # Where the histograms are the same, the package's curve is one point many times, and its area comes out as 0.75.
    return 1.0 if np.array_equal(found.p_hist, found.q_hist) else float(found.mauve)


def _package() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # faiss' bindings are of an old SWIG
            import mauve as package
    except ImportError as error:
        raise SettingsError("MAUVE needs the package mauve-text; pip install 'descant[mauve]', or drop it") from error
    return package

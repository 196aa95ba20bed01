"""Questions about decoding, each answered with numbers by one command: `descant experiment`."""

from descant.evaluation.experiments.base import Data, Experiment, Pair, model_key
from descant.evaluation.experiments.cells import Cells
from descant.evaluation.experiments.repetition import Repetition

__all__ = ["EXPERIMENTS", "Cells", "Data", "Experiment", "Pair", "model_key"]

_ALL: tuple[Experiment, ...] = (Repetition(),)

EXPERIMENTS = {experiment.name: experiment for experiment in _ALL}
"""All experiments, by name."""

"""Questions about decoding, each answered with numbers by one command: `descant experiment`."""

from descant.evaluation.experiments.amateurs import Amateurs
from descant.evaluation.experiments.base import Data, Experiment, Pair
from descant.evaluation.experiments.cells import Cells
from descant.evaluation.experiments.early_exit import EarlyExits
from descant.evaluation.experiments.faults import Faults
from descant.evaluation.experiments.methods import Methods
from descant.evaluation.experiments.repetition import Repetition
from descant.evaluation.experiments.sensitivity import Sensitivity

__all__ = ["EXPERIMENTS", "Cells", "Data", "Experiment", "Pair"]

_ALL: tuple[Experiment, ...] = (Methods(), EarlyExits(), Amateurs(), Sensitivity(), Repetition(), Faults())

EXPERIMENTS = {experiment.name: experiment for experiment in _ALL}
"""All experiments, by name."""

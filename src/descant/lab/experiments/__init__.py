"""Questions about decoding, each answered with numbers by one command: `descant experiment`."""

from descant.lab.experiments.amateurs import Amateurs
from descant.lab.experiments.base import Data, Experiment, Pair
from descant.lab.experiments.cells import Cells
from descant.lab.experiments.early_exit import EarlyExits
from descant.lab.experiments.faults import Faults
from descant.lab.experiments.methods import Methods
from descant.lab.experiments.repetition import Repetition
from descant.lab.experiments.sensitivity import Sensitivity

__all__ = ["EXPERIMENTS", "Cells", "Data", "Experiment", "Pair"]

_ALL: tuple[Experiment, ...] = (Methods(), EarlyExits(), Amateurs(), Sensitivity(), Repetition(), Faults())

EXPERIMENTS = {experiment.name: experiment for experiment in _ALL}
"""All experiments, by name."""

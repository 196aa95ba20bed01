"""How fast a pair decodes on this machine, beside what transformers alone makes of it."""

from descant.lab.bench.figures import Draft, Figures, Measurements, Missing, Settings
from descant.lab.bench.study import Bench

__all__ = ["Bench", "Draft", "Figures", "Measurements", "Missing", "Settings"]

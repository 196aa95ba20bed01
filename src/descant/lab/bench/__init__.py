"""How fast a pair decodes on this machine, beside what transformers alone makes of it."""

from descant.lab.bench.figures import Draft, Figures, Missing, Settings, Study
from descant.lab.bench.study import Bench

__all__ = ["Bench", "Draft", "Figures", "Missing", "Settings", "Study"]

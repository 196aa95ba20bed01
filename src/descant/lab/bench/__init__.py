"""How fast a pair decodes on this machine, beside what transformers alone makes of it."""

from descant.bench.figures import Draft, Figures, Missing, Settings, Study
from descant.bench.study import Bench

__all__ = ["Bench", "Draft", "Figures", "Missing", "Settings", "Study"]

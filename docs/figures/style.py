"""How every figure looks, and how it is written."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind readers tell apart.
EXPERT = "#0072B2"
AMATEUR = "#D55E00"
CHOSEN = "#009E73"
LEFT_OUT = "#C8C8C8"
INK = "#222222"


STYLE = {
    "svg.hashsalt": "descant",
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "axes.labelcolor": INK,
}


@contextmanager
def styled() -> Iterator[None]:
    """Draw in one style, whatever this machine's defaults are, so that the same decode gives the same file."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        yield


def bare(axes: Axes) -> None:
    """Leave out axes that measure nothing."""
    axes.set_axis_off()


def save(figure: Figure, path: Path) -> None:
    """Write a figure to a temporary file, and rename it; no date, so that nothing changes where nothing changed."""
    unfinished = path.with_suffix(".svg.tmp")
    figure.savefig(unfinished, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": None})
    plt.close(figure)
    unfinished.rename(path)

"""How the pages' figures look: colours that the colour-blind tell apart, one legend, light grids."""

from typing import Any

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#444444")
"""Okabe and Ito's palette, the strongest first."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def panels(columns: int, rows: int = 1, *, width: float = 4.6, height: float = 3.4) -> tuple[Any, Any]:
    """Return a figure and its axes, `[rows, columns]`, without the state of pyplot."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.grid(alpha=0.25, linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def legend_below(axis: Any, columns: int = 2, *, lines: int = 1) -> None:
    """Put the legend under the picture and so many lines of tick labels, where it hides nothing."""
    place = (0.5, -0.12 - 0.07 * lines)
    axis.legend(fontsize=7, loc="upper center", bbox_to_anchor=place, ncols=columns, frameon=False)


def heatmap(
    axis: Any, values: list[list[float]], rows: list[str], columns: list[str], *, low: float, high: float
) -> None:
    """Draw a table of numbers as colours, dark from `low` to light at `high`, with the numbers."""
    axis.grid(visible=False)
    axis.pcolormesh(values, cmap="cividis", vmin=low, vmax=high)
    for y, line in enumerate(values):
        for x, value in enumerate(line):
            colour = "white" if value < (low + high) / 2 else "black"
            axis.text(x + 0.5, y + 0.5, f"{value:.3f}".lstrip("0"), ha="center", va="center", color=colour, fontsize=7)
    axis.set_xticks([place + 0.5 for place in range(len(columns))], columns)
    axis.set_yticks([place + 0.5 for place in range(len(rows))], rows)

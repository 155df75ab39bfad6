"""Figures of one row of plots, drawn without a display, as PNG files or bytes."""

import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from mrcnn_zoo.output_files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def new_figure(*, columns: int, side: float = 4.5) -> "Figure":
    """An empty figure for one row of plots; `figure.subplots(1, columns)` adds them.

    Args:
        columns: number of plots.
        side: height of the figure in inches.
    """
    from matplotlib.figure import Figure  # unlike pyplot, it needs no display and no global state

    return Figure(figsize=(max(side, 1.25 * side * columns if columns > 1 else side), side), layout="constrained")


def finish(axes: "Axes", *, title: str, y_label: str, x_label: str = "iteration") -> None:
    """Add title, labels, a grid, and a legend where a curve has a label.

    Args:
        axes: of one plot.
        title: above it.
        y_label: of the vertical axis.
        x_label: of the horizontal axis.
    """
    axes.set(title=title, ylabel=y_label, xlabel=x_label)
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=7)


def save_figure(figure: "Figure", path: str | Path) -> Path:
    """Write a PNG; see `write_atomically`.

    Args:
        figure: drawn.
        path: of the PNG.
    """
    return write_atomically(Path(path), lambda file: _write_png(figure, file))


def png_of(figure: "Figure") -> bytes:
    """The content of a PNG file.

    Args:
        figure: drawn.
    """
    content = io.BytesIO()
    _write_png(figure, content)
    return content.getvalue()


def _write_png(figure: "Figure", file: BinaryIO) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # of a class name; it is drawn as a box
        figure.savefig(file, format="png", dpi=110)

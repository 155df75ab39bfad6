"""Figures, drawn without a display, as PNG files or bytes; the matrix of confused classes."""

import io
import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mrcnn_zoo.output_files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_CLASS_CURVES = 12  # above it, curves and counts of single classes are not drawn
MAX_LABELED_CLASSES = 100
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8c6d31")  # Okabe and Ito 2008
NARROW = 4.6  # inches; as wide as a phone shows without shrinking the letters much
SETTINGS: Any = {"font.size": 9, "svg.hashsalt": "mrcnn_zoo", "axes.spines.top": False, "axes.spines.right": False}


@dataclass(frozen=True)
class Plot:
    """A figure that is drawn when it is written.

    Args:
        name: of its file, without suffix.
        text: what it shows, in words.
        draw: makes the figure.
    """

    name: str
    text: str
    draw: Callable[[], "Figure"]

    def svg(self) -> str:
        """The figure as SVG."""
        return self._drawn("svg").decode("utf-8")

    def save_png(self, path: Path) -> Path:
        """Write the figure as PNG.

        Args:
            path: of the file.
        """
        content = self._drawn("png")
        return write_atomically(path, lambda file: file.write(content))

    def _drawn(self, kind: str) -> bytes:
        import matplotlib as mpl

        content = io.BytesIO()
        with mpl.rc_context(SETTINGS):
            metadata: dict[str, Any] = {"Date": None} if kind == "svg" else {}
            self.draw().savefig(content, format=kind, dpi=130, metadata=metadata)
        return content.getvalue()


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


def narrow_figure(*, height: float, legend_rows: int = 0) -> tuple["Figure", "Axes"]:
    """An empty figure of one plot for a page that is also read on a phone.

    Args:
        height: of the plot in inches.
        legend_rows: rows of the legend below it.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(NARROW, height + 0.19 * legend_rows), layout="constrained")
    return figure, figure.subplots()


def legend_rows(names: Iterable[str]) -> int:
    """Number of rows of the legend of `finish_narrow`.

    Args:
        names: in the legend.
    """
    names = list(names)
    return math.ceil(len(names) / _legend_columns(names)) if names else 0


def _legend_columns(names: Sequence[str]) -> int:
    return max(1, min(len(names), 60 // (max(map(len, names)) + 7)))


def finish_narrow(figure: "Figure", axes: "Axes", *, x_label: str, y_label: str) -> None:
    """Add labels, a grid, and below the plot a legend where a curve has a label.

    Args:
        figure: see `narrow_figure`.
        axes: its plot.
        x_label: of the horizontal axis.
        y_label: of the vertical axis.
    """
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.grid(alpha=0.3)
    handles, names = axes.get_legend_handles_labels()
    if names:
        columns = _legend_columns(names)
        figure.legend(handles, names, loc="outside lower center", ncols=columns, fontsize=8, frameon=False)


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


def picture_of(figure: "Figure") -> NDArray[np.uint8]:
    """The pixels of a figure.

    Args:
        figure: drawn.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    with Image.open(io.BytesIO(png_of(figure))) as image:
        return np.asarray(image.convert("RGB"))


def _write_png(figure: "Figure", file: BinaryIO) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # of a class name; it is drawn as a box
        figure.savefig(file, format="png", dpi=110)


def confusion_figure(
    matrix: NDArray[np.int64], class_names: Sequence[str], *, title: str = "confusion matrix", side: float = 4.5
) -> "Figure":
    """A confusion matrix, each row divided by its sum; classes that do not occur are omitted.

    Args:
        matrix: (K + 1, K + 1) counts, true classes by row.
        class_names: (K + 1,) by class index, with that of the background at the end.
        title: above it.
        side: of the figure without classes, in inches.
    """
    names = np.array(class_names)
    occurs = (matrix.sum(axis=0) + matrix.sum(axis=1)) > 0
    occurs[-1] = True
    matrix, names = matrix[np.ix_(occurs, occurs)], names[occurs]
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    figure = new_figure(columns=1, side=min(16.0, side + 0.28 * len(names)))
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if len(names) <= MAX_CLASS_CURVES:
        for row, column in np.argwhere(matrix > 0):
            color = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(matrix[row, column]), ha="center", va="center", color=color, fontsize=9)
    if len(names) <= MAX_LABELED_CLASSES:
        size = 10 if len(names) <= MAX_CLASS_CURVES else 8
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=size)
        axes.set_yticks(range(len(names)), names, fontsize=size)
    axes.set(xlabel="predicted class", ylabel="true class")
    axes.set_title(title, fontsize=10)
    return figure

"""Files of a report, in each format."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mrcnn_zoo.errors import UserError
from mrcnn_zoo.experiments.report.model import Report
from mrcnn_zoo.experiments.report.page import html_text
from mrcnn_zoo.experiments.report.plots import section_plots
from mrcnn_zoo.experiments.report.text import latex_text, markdown_text, rows_csv, runs_csv
from mrcnn_zoo.inspection.figures import Plot
from mrcnn_zoo.output_files import write_text
from mrcnn_zoo.registry import did_you_mean

PLOTS_FOLDER = "plots"  # PNG files beside the Markdown page
Plots = Mapping[str, Sequence[Plot]]  # by name of the section


def write_report(report: Report, folder: Path, *, formats: Sequence[str]) -> list[Path]:
    """Write a report, replacing an earlier one.

    Args:
        report: its content.
        folder: created if needed.
        formats: names of `FORMATS`.

    Returns:
        The pages and tables; the plots of the Markdown page are in the folder "plots" beside it.

    Raises:
        UserError: an unknown format, or a file cannot be written.
    """
    check_formats(formats)
    needs_plots = {"markdown", "html"} & set(formats)
    plots = {section.name: section_plots(section) if needs_plots else [] for section in report.sections}
    return [path for name in dict.fromkeys(formats) for path in FORMATS[name](report, plots, folder)]


def check_formats(formats: Sequence[str]) -> None:
    """Refuse a name that is no format.

    Args:
        formats: as they were typed.

    Raises:
        UserError: with the known names.
    """
    for name in formats:
        if name not in FORMATS:
            raise UserError(f"--format {name} is not one of {', '.join(FORMATS)}.{did_you_mean(name, FORMATS)}")


def _write_markdown(report: Report, plots: Plots, folder: Path) -> list[Path]:
    links = {}
    for section, drawn in plots.items():
        links[section] = [(plot.text, f"{PLOTS_FOLDER}/{plot.name}.png") for plot in drawn]
        for plot in drawn:
            plot.save_png(folder / PLOTS_FOLDER / f"{plot.name}.png")
    return [write_text(folder / "report.md", markdown_text(report, links))]


def _write_csv(report: Report, _: Plots, folder: Path) -> list[Path]:
    return [write_text(folder / "report.csv", rows_csv(report)), write_text(folder / "runs.csv", runs_csv(report))]


def _write_latex(report: Report, _: Plots, folder: Path) -> list[Path]:
    return [write_text(folder / "report.tex", latex_text(report))]


def _write_html(report: Report, plots: Plots, folder: Path) -> list[Path]:
    return [write_text(folder / "report.html", html_text(report, plots))]


FORMATS: dict[str, Callable[[Report, Plots, Path], list[Path]]] = {
    "markdown": _write_markdown,
    "csv": _write_csv,
    "latex": _write_latex,
    "html": _write_html,
}

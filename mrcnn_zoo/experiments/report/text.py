"""A report as Markdown, LaTeX and CSV, and its tables for a terminal."""

import math
import re
from collections.abc import Mapping, Sequence

from tabulate import tabulate

from mrcnn_zoo.experiments.comparison import ComparisonRow
from mrcnn_zoo.experiments.report.details import NOT_MEASURED, detail_tables
from mrcnn_zoo.experiments.report.model import Report, Section
from mrcnn_zoo.experiments.report.tables import report_tables, result_tables, why_not_compared
from mrcnn_zoo.experiments.speed import Speed
from mrcnn_zoo.experiments.statistics import Estimate
from mrcnn_zoo.inspection.html_page import Cell, Table
from mrcnn_zoo.output_files import csv_text

LATEX_SPECIAL = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
}
LATEX_HEAD = r"""% Tables of a report on sweeps ({date}). The preamble needs \usepackage{{booktabs}}
% and \usepackage[T1]{{fontenc}}. Where a table is too wide:
% \usepackage{{graphicx}} and \resizebox{{\linewidth}}{{!}}{{...}} around its tabular.
"""
NEGATIVE = re.compile(r"(?<![\w.])-(?=\d)")
SECTION_PLOTS = Mapping[str, Sequence[tuple[str, str]]]  # by name of the section: (description, path) of each plot


# --- terminal ---------------------------------------------------------------------------------------------------------
def plain_text(report: Report) -> str:
    """The tables of results for a terminal.

    Args:
        report: its content.
    """
    parts = [plain_table(table) for table in report_tables(report)]
    for section in report.sections:
        parts += [section.title, *(plain_table(table) for table in result_tables(section))]
    return "\n\n".join(parts) + "\n"


def plain_table(table: Table) -> str:
    """A table for a terminal, with its footnotes.

    Args:
        table: any.
    """
    marks = table.footnotes
    rows = [[cell.text + (f" ({marks[cell.note]})" if cell.note else "") for cell in row] for row in table.rows]
    notes = [f"({mark}) {note}" for note, mark in marks.items()]
    return "\n".join([table.title, *([table.caption] if table.caption else []), _pipe_table(table, rows), *notes])


def _pipe_table(table: Table, rows: Sequence[Sequence[str]], headers: Sequence[str] = ()) -> str:
    sides = ["left"] * table.names + ["right"] * (len(table.headers) - table.names)
    return tabulate(rows, headers or table.headers, tablefmt="pipe", disable_numparse=True, colalign=sides)


# --- Markdown ---------------------------------------------------------------------------------------------------------
def markdown_text(report: Report, plots: SECTION_PLOTS) -> str:
    """A Markdown page.

    Args:
        report: its content.
        plots: by name of the section; paths are relative to the page.
    """
    several = len(report.sections) > 1
    blocks = ["# Sweeps" if several else f"# {report.sections[0].title}", f"State of {report.date}."]
    for table in report_tables(report):
        blocks += _markdown_table(table, level=2)
    for section in report.sections:
        blocks += [f"## {section.title}"] if several else []
        blocks += _markdown_section(section, plots.get(section.name, ()))
    return "\n\n".join(blocks) + "\n"


def _markdown_section(section: Section, plots: Sequence[tuple[str, str]]) -> list[str]:
    blocks = [_markdown(section.note)] if section.note else []
    blocks.append("\n".join(f"- {_markdown(line)}" for line in section.remarks))
    for table in result_tables(section):
        blocks += _markdown_table(table, level=3)
    if section.learning_curves:
        lines = (f"- {curve.variant}, {curve.metric}: {curve.text()}" for curve in section.learning_curves)
        blocks += ["### How much data is needed", "\n".join(map(_markdown, lines))]
    if plots:
        blocks += ["### Plots", *(f"![{_markdown(text)}]({path})" for text, path in plots)]
    for table in detail_tables(section):
        blocks += _markdown_table(table, level=3)
    return [block for block in blocks if block]


def _markdown_table(table: Table, *, level: int) -> list[str]:
    marks = table.footnotes
    rows = [[_markdown_cell(cell, marks) for cell in row] for row in table.rows]
    text = _pipe_table(table, rows, [_markdown(text) for text in table.headers])
    notes = [f"<sup>{mark}</sup> {_markdown(note)}" for note, mark in marks.items()]
    caption = [_markdown(table.caption)] if table.caption else []
    return [f"{'#' * level} {_markdown(table.title)}", *caption, text, *(["; ".join(notes) + "."] if notes else [])]


def _markdown_cell(cell: Cell, marks: Mapping[str, str]) -> str:
    text = f"**{_markdown(cell.text)}**" if cell.kind else _markdown(cell.text)
    return text + (f"<sup>{marks[cell.note]}</sup>" if cell.note else "")


def _markdown(text: str) -> str:
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|").replace("*", "\\*").replace("`", "\\`")
    return " ".join(text.split("\n"))


# --- LaTeX ------------------------------------------------------------------------------------------------------------
def latex_text(report: Report) -> str:
    r"""Tables for `\input`, with the rules of booktabs; the table of all runs is omitted.

    Args:
        report: its content.
    """
    tables = [("", table) for table in report_tables(report)]
    for section in report.sections:
        found = [*result_tables(section), *detail_tables(section)]
        tables += [(section.title, table) for table in found if not table.is_long]
    return LATEX_HEAD.format(date=report.date) + "\n".join(_latex_table(*item) for item in tables)


def _latex_table(title: str, table: Table) -> str:
    marks, caption = table.footnotes, table.caption and f" {table.caption}"
    is_text = table.names == len(table.headers)
    columns = "l" * table.names + "r" * (len(table.headers) - table.names)
    if is_text:
        columns = columns[:-1] + r"p{0.6\linewidth}"
    lines = [
        r"\begin{table}[htbp]",
        r"  \centering",
        rf"  \caption{{{latex(': '.join(filter(None, (title, table.title))))}.{latex(caption)}}}",
        rf"  \begin{{tabular}}{{@{{}}{columns}@{{}}}}",
        r"    \toprule",
        f"    {' & '.join(latex(text) for text in table.headers)} \\\\",
        r"    \midrule",
        *(f"    {' & '.join(_latex_cell(cell, marks) for cell in row)} \\\\" for row in table.rows),
        r"    \bottomrule",
        r"  \end{tabular}",
    ]
    if marks:
        notes = (rf"\textsuperscript{{{mark}}}\,{latex(note)}" for note, mark in marks.items())
        lines.append(rf"  \par\smallskip{{\footnotesize {'; '.join(notes)}.\par}}")
    return "\n".join([*lines, r"\end{table}", ""])


def _latex_cell(cell: Cell, marks: Mapping[str, str]) -> str:
    text = latex(cell.text)
    # A bracket or a star at the beginning of a row would be an argument of the line break before it.
    text = f"{{{text[0]}}}{text[1:]}" if text[:1] in ("[", "*") else text
    return (rf"\textbf{{{text}}}" if cell.kind else text) + (
        rf"\textsuperscript{{{marks[cell.note]}}}" if cell.note else ""
    )


def latex(text: str) -> str:
    """Text with LaTeX's special characters escaped, and a minus sign before negative numbers.

    Args:
        text: any; line breaks become spaces.
    """
    escaped = "".join(LATEX_SPECIAL.get(character, character) for character in " ".join(text.split("\n")))
    return NEGATIVE.sub("$-$", escaped)


# --- CSV --------------------------------------------------------------------------------------------------------------
ROW_COLUMNS = (
    *("sweep", "variant", "metric", "seeds", "planned_seeds"),
    *("mean", "mean_low", "mean_high", "reference", "difference", "difference_low", "difference_high"),
    *("p_holm", "verdict", "smallest_detectable", "paper", "paper_difference", "ordering", "paper_source"),
    *("parameters", "train_images_per_second", "train_memory_mib", "images_per_second", "memory_mib"),
    *("changes", "missing"),
)


def rows_csv(report: Report) -> str:
    """One row per variant and metric; the last column has the reasons for empty fields.

    Args:
        report: its content.
    """
    rows = [
        _csv_row(section, item.metric, row)
        for section in report.sections
        for item in section.comparisons
        for row in item.rows
    ]
    return csv_text([ROW_COLUMNS, *rows])


def _csv_row(section: Section, metric: str, row: ComparisonRow) -> tuple[object, ...]:
    speed = section.speeds.get(row.variant)
    is_complete = row.variant == section.reference or not math.isnan(row.adjusted_p)
    reasons = [
        "" if is_complete else why_not_compared(row, section),
        f"time and memory: {NOT_MEASURED}" if speed is None else speed.error,
    ]
    measured, published = speed or Speed(), section.published.get((row.variant, metric))
    return (
        *(section.name, row.variant, metric, len(row.values), row.num_seeds),
        *_ends(row.mean),
        *(section.reference, *_ends(row.difference)),
        *(_known(row.adjusted_p), row.verdict, _known(row.detectable)),
        *(published, section.published_difference(row.variant, metric), section.agreement(row, metric)),
        "" if published is None else section.paper_source,
        *(measured.parameters, measured.train_images_per_second, measured.train_memory_mib),
        *(measured.images_per_second, measured.memory_mib),
        *("; ".join(section.changes.get(row.variant, ())), "; ".join(filter(None, reasons))),
    )


def _ends(estimate: Estimate | None) -> tuple[float | None, ...]:
    ends = (math.nan,) * 3 if estimate is None else (estimate.value, estimate.low, estimate.high)
    return tuple(map(_known, ends))


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def runs_csv(report: Report) -> str:
    """One row per run, a column per metric.

    Args:
        report: its content.
    """
    metrics = tuple(dict.fromkeys(metric for section in report.sections for metric in section.metrics))
    rows = [
        (
            *(section.name, run.variant, run.seed, run.fraction, "" if run.fold is None else run.fold, run.status),
            *(run.metrics.get(metric) for metric in metrics),
            *(" ".join(run.error.split()), str(run.folder)),
        )
        for section in report.sections
        for run in section.runs
    ]
    header = ("sweep", "variant", "seed", "fraction", "fold", "status", *metrics, "error", "folder")
    return csv_text([header, *rows])

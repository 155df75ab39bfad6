"""A report as one HTML page that needs no other file and no network."""

from collections.abc import Mapping, Sequence
from html import escape

from mrcnn_zoo.experiments.report.details import detail_tables
from mrcnn_zoo.experiments.report.model import Report, Section
from mrcnn_zoo.experiments.report.tables import report_tables, result_tables
from mrcnn_zoo.inspection.figures import Plot
from mrcnn_zoo.inspection.html_page import html_list, html_page, html_plot, html_table


def html_text(report: Report, plots: Mapping[str, Sequence[Plot]]) -> str:
    """The page, plots included.

    Args:
        report: its content.
        plots: by name of the section.
    """
    several = len(report.sections) > 1
    title = "Sweeps" if several else report.sections[0].title
    links = "".join(f'<a href="#{_anchor(place)}">{escape(s.title)}</a>' for place, s in enumerate(report.sections))
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="date">State of {escape(report.date)}.</p>',
        *([f"<nav>{links}</nav>"] if several else []),
        *(html_table(table, level=2) for table in report_tables(report)),
    ]
    for place, section in enumerate(report.sections):
        heading = f'<h2 id="{_anchor(place)}">{escape(section.title)}</h2>' if several else ""
        body.append(heading + _section(section, plots.get(section.name, ())))
    return html_page(title, body)


def _anchor(place: int) -> str:
    return f"sweep-{place + 1}"


def _section(section: Section, plots: Sequence[Plot]) -> str:
    blocks = [f"<p>{escape(section.note)}</p>"] if section.note else []
    blocks.append(html_list(section.remarks))
    blocks += [html_table(table, reference=section.reference) for table in result_tables(section)]
    if section.learning_curves:
        lines = (f"{curve.variant}, {curve.metric}: {curve.text()}" for curve in section.learning_curves)
        blocks.append(f"<h3>How much data is needed</h3>{html_list(lines)}")
    if plots:
        blocks.append(f'<h3>Plots</h3><div class="plots">{"".join(map(html_plot, plots))}</div>')
    blocks += [html_table(table, reference=section.reference) for table in detail_tables(section)]
    return "\n".join(blocks)

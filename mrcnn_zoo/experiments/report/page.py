"""A report as one HTML page that needs no other file and no network."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from mrcnn_zoo.experiments.report.details import detail_tables
from mrcnn_zoo.experiments.report.model import Report, Section
from mrcnn_zoo.experiments.report.plots import Plot
from mrcnn_zoo.experiments.report.tables import Cell, Table, report_tables, result_tables

STYLE = """
:root { --text: #1c1e21; --faint: #5d6570; --back: #fff; --line: #d9dde2; --stripe: #f6f7f9;
        --better: #00663f; --worse: #a3380a; color-scheme: light dark; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e6e8ea; --faint: #a2aab4; --back: #16181b; --line: #3a3f46; --stripe: #1e2125;
          --better: #4ccb94; --worse: #ff9a6b; }
}
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--text); background: var(--back); margin: 0 auto;
       padding: 1rem; max-width: 76rem; overflow-wrap: break-word; }
h1 { font-size: 1.7rem; line-height: 1.25; }
h2 { font-size: 1.4rem; margin-top: 3rem; padding-top: 1rem; border-top: 2px solid var(--line); }
h3 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
nav a { margin-right: 1rem; }
a { color: inherit; }
.date, .caption, .notes { color: var(--faint); font-size: .88rem; }
.caption { margin: 0 0 .5rem; }
.notes { list-style: none; padding: 0; margin: .4rem 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .7rem; text-align: right; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 600; vertical-align: bottom; }
td { white-space: nowrap; }
th.name, td.name { text-align: left; white-space: normal; overflow-wrap: anywhere; min-width: 7rem; }
td.name:first-child { white-space: nowrap; }
tbody tr:nth-child(even) { background: var(--stripe); }
tr.reference td:first-child { font-weight: 600; }
.better { color: var(--better); font-weight: 600; }
.worse { color: var(--worse); font-weight: 600; }
sup { line-height: 0; }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 30rem), 1fr)); gap: 1rem; }
figure { margin: 0; padding: .5rem; background: #fff; color: #1c1e21; border: 1px solid var(--line);
         border-radius: 6px; align-self: start; }
figure img { width: 100%; height: auto; display: block; }
figcaption { font-size: .88rem; margin-bottom: .3rem; }
summary { cursor: pointer; margin: 2rem 0 .5rem; font-weight: 600; }
@media (max-width: 44rem) {
  .wide thead { display: none; }
  .wide table, .wide tbody, .wide tr, .wide td { display: block; width: 100%; }
  .wide tr { padding: .5rem 0; border-bottom: 2px solid var(--line); }
  .wide td, .wide td.name { border: 0; padding: .1rem .5rem; text-align: right; display: flex; gap: 1rem;
                            justify-content: space-between; }
  .wide td, .wide td.name { white-space: normal; }
  .wide td:before { content: attr(data-label); color: var(--faint); text-align: left; flex: none; max-width: 60%;
                    overflow-wrap: normal; }
  .wide td:first-child { font-weight: 600; }
  .wide td:not(:has(span:not(:empty))) { display: none; }
}
"""


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
        *(_table(table, level=2) for table in report_tables(report)),
    ]
    for place, section in enumerate(report.sections):
        heading = f'<h2 id="{_anchor(place)}">{escape(section.title)}</h2>' if several else ""
        body.append(heading + _section(section, plots.get(section.name, ())))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def _anchor(place: int) -> str:
    return f"sweep-{place + 1}"


def _section(section: Section, plots: Sequence[Plot]) -> str:
    blocks = [f"<p>{escape(section.note)}</p>"] if section.note else []
    blocks.append(_list(section.remarks))
    blocks += [_table(table, reference=section.reference) for table in result_tables(section)]
    if section.learning_curves:
        lines = (
            f"<li>{escape(f'{curve.variant}, {curve.metric}: {curve.text()}')}</li>"
            for curve in section.learning_curves
        )
        blocks.append(f"<h3>How much data is needed</h3><ul>{''.join(lines)}</ul>")
    if plots:
        blocks.append(f'<h3>Plots</h3><div class="plots">{"".join(map(_figure, plots))}</div>')
    blocks += [_table(table, reference=section.reference) for table in detail_tables(section)]
    return "\n".join(blocks)


def _list(lines: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"


def _figure(plot: Plot) -> str:
    # An image of its own keeps the ids inside one SVG apart from those of the others.
    content = base64.b64encode(plot.svg().encode("utf-8")).decode("ascii")
    text = escape(plot.text)
    return (
        f'<figure><figcaption>{text}</figcaption><img alt="{text}" src="data:image/svg+xml;base64,{content}"></figure>'
    )


def _table(table: Table, *, level: int = 3, reference: str = "") -> str:
    if table.is_long or table.is_folded:
        return f"<details><summary>{escape(table.title)}</summary>{_bare_table(table, reference=reference)}</details>"
    return f"<h{level}>{escape(table.title)}</h{level}>{_bare_table(table, reference=reference)}"


def _bare_table(table: Table, *, reference: str = "") -> str:
    marks = table.footnotes
    head = "".join(f"<th{_name_class(place, table)}>{escape(text)}</th>" for place, text in enumerate(table.headers))
    rows = "".join(_row(row, table, marks, reference) for row in table.rows)
    notes = "".join(f"<li><sup>{mark}</sup> {escape(note)}</li>" for note, mark in marks.items())
    caption = f'<p class="caption">{escape(table.caption)}</p>' if table.caption else ""
    return f'{caption}<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>' + (
        f'<ul class="notes">{notes}</ul>' if notes else ""
    )


def _row(row: Sequence[Cell], table: Table, marks: Mapping[str, str], reference: str) -> str:
    cells = []
    for place, (cell, header) in enumerate(zip(row, table.headers, strict=True)):
        text = f'<span class="{cell.kind}">{escape(cell.text)}</span>' if cell.kind else escape(cell.text)
        mark = f"<sup>{marks[cell.note]}</sup>" if cell.note else ""
        label = escape(header)
        cells.append(f'<td{_name_class(place, table)} data-label="{label}"><span>{text}{mark}</span></td>')
    start = '<tr class="reference">' if reference and row[0].text == reference else "<tr>"
    return f"{start}{''.join(cells)}</tr>"


def _name_class(place: int, table: Table) -> str:
    return ' class="name"' if place < table.names else ""

"""HTML pages that need no other file and no network: text, tables, pictures, plots, scripts with data."""

import base64
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from PIL import Image

from mrcnn_zoo.inspection.canvas import Picture
from mrcnn_zoo.inspection.figures import Plot

JPEG_QUALITY = 82
MARK = '<meta name="generator" content="mrcnn_zoo">'
HEAD_BYTES = 2000  # of a page; its head begins with the mark
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


@dataclass(frozen=True)
class Cell:
    """Text with an optional footnote.

    Args:
        text: one line.
        note: text of the footnote.
        kind: "better" or "worse" where it is coloured.
    """

    text: str
    note: str = ""
    kind: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of cells; the first `names` columns are aligned left, the others right.

    Args:
        title: heading.
        headers: of the columns.
        rows: as long as the headers.
        names: number of columns of text.
        caption: one or two sentences under the heading; "" for none.
        is_long: whether it is folded away in HTML and left out of LaTeX.
        is_folded: whether it is folded away in HTML alone.
        is_compact: whether its rows stay rows on a phone; those of others become blocks of lines.
    """

    title: str
    headers: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    names: int = 1
    caption: str = ""
    is_long: bool = False
    is_folded: bool = False
    is_compact: bool = False

    @property
    def footnotes(self) -> dict[str, str]:
        """Mark of each footnote, a, b, c, in order of appearance."""
        notes = dict.fromkeys(cell.note for row in self.rows for cell in row if cell.note)
        return {note: _mark(place) for place, note in enumerate(notes)}


def _mark(place: int) -> str:
    letters = ""
    while place >= 0:
        letters = chr(ord("a") + place % 26) + letters
        place = place // 26 - 1
    return letters


def html_page(
    title: str,
    body: Iterable[str],
    *,
    style: str = "",
    script: str = "",
    data: Mapping[str, Any] | None = None,
) -> str:
    """A whole page with the common style; a content policy forbids requests.

    Args:
        title: of the window.
        body: HTML.
        style: CSS in addition.
        script: JavaScript, run at the end of the body.
        data: for the script, as the JSON in the element `page-data`: read it with
            `JSON.parse(document.getElementById("page-data").textContent)`.
    """
    scripts = ""
    if data is not None:
        content = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
        scripts += f'<script type="application/json" id="page-data">{content}</script>\n'
    if script:
        scripts += f"<script>\n{script}</script>\n"
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n{MARK}\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f"<title>{escape(title)}</title>\n<style>{resource('page.css')}{style}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + f"\n{scripts}</body>\n</html>\n"
    )


def is_own_page(path: Path) -> bool:
    """Whether a file was written with `html_page`.

    Args:
        path: of an existing file.
    """
    try:
        with path.open("rb") as file:
            return MARK.encode("utf-8") in file.read(HEAD_BYTES)
    except OSError:
        return False


def resource(name: str) -> str:
    """The text of a file in `inspection/resources`, such as a style or a script.

    Args:
        name: of the file.
    """
    return (resources.files("mrcnn_zoo.inspection") / "resources" / name).read_text(encoding="utf-8")


def html_list(lines: Iterable[str]) -> str:
    """A bulleted list.

    Args:
        lines: plain texts.
    """
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"


def data_uri(content: bytes, media_type: str) -> str:
    """A `data:` address.

    Args:
        content: of the file.
        media_type: e.g. "image/png".
    """
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"


def picture_uri(picture: Picture, *, lossless: bool = False) -> str:
    """A picture as a `data:` address.

    Args:
        picture: (H, W, 3) RGB, or (H, W, 4) with alpha, which is always lossless.
        lossless: PNG instead of JPEG.
    """
    content, is_png = io.BytesIO(), lossless or picture.shape[2] == 4
    image = Image.fromarray(picture)
    if is_png:
        image.save(content, format="PNG", optimize=True)
    else:
        image.save(content, format="JPEG", quality=JPEG_QUALITY)
    return data_uri(content.getvalue(), "image/png" if is_png else "image/jpeg")


def html_plot(plot: Plot) -> str:
    """A plot with its text above.

    Args:
        plot: drawn as SVG.
    """
    # An image of its own keeps the ids inside one SVG apart from those of the others.
    address = data_uri(plot.svg().encode("utf-8"), "image/svg+xml")
    text = escape(plot.text)
    return f'<figure><figcaption>{text}</figcaption><img alt="{text}" src="{address}"></figure>'


def html_table(table: Table, *, level: int = 3, reference: str = "") -> str:
    """A table with its heading, folded where the table is.

    Args:
        table: cells and footnotes.
        level: of the heading, 1 to 6.
        reference: first cell of the row in bold.
    """
    if table.is_long or table.is_folded:
        return f"<details><summary>{escape(table.title)}</summary>{_bare_table(table, reference=reference)}</details>"
    return f"<h{level}>{escape(table.title)}</h{level}>{_bare_table(table, reference=reference)}"


def _bare_table(table: Table, *, reference: str = "") -> str:
    marks = table.footnotes
    head = "".join(f"<th{_name_class(place, table)}>{escape(text)}</th>" for place, text in enumerate(table.headers))
    rows = "".join(_row(row, table, marks, reference) for row in table.rows)
    notes = "".join(f"<li><sup>{mark}</sup> {escape(note)}</li>" for note, mark in marks.items())
    caption = f'<p class="caption">{escape(table.caption)}</p>' if table.caption else ""
    width = "compact" if table.is_compact else "wide"
    return f'{caption}<div class="{width}"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>' + (
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

"""A run report as one HTML page, which is at most MAX_BYTES large."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from mrcnn_zoo.errors import UserError
from mrcnn_zoo.inspection.evaluation_files import EvaluationFiles
from mrcnn_zoo.inspection.html_page import Table, data_uri, html_list, html_page, html_plot, html_table, resource
from mrcnn_zoo.inspection.run_report.funnel import funnel_blocks
from mrcnn_zoo.inspection.run_report.galleries import Gallery, GalleryItem, image_galleries, suspect_gallery
from mrcnn_zoo.inspection.run_report.headline import headline, run_title
from mrcnn_zoo.inspection.run_report.pictures import jpeg_within
from mrcnn_zoo.inspection.run_report.plots import confusion_plot, curve_plots, precision_plots
from mrcnn_zoo.inspection.run_report.report import EvaluationReport, RunReport, read_report
from mrcnn_zoo.inspection.run_report.tables import (
    change_tables,
    confusion_table,
    error_table,
    file_table,
    prediction_table,
    result_tables,
    stage_table,
    time_table,
)
from mrcnn_zoo.output_files import write_text

REPORT_FILE = "report.html"
MAX_BYTES = 10_000_000
PICTURE_SHARE = 0.75  # of the page, the rest is for plots and tables
MAX_PICTURE = 150_000  # bytes of one picture
BASE64 = 4 / 3
MAX_WARNINGS = 30
LEGEND = (
    'At the left the annotations, <span class="key correct">found</span> or <span class="key missed">missed</span>; at '
    'the right the detections, <span class="key correct">correct</span> or <span class="key false">false</span> '
    "(IoU of at least 0.5 and the class of the object; scores from {threshold:g})."
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Section:
    """A part of the page; without blocks it is left out."""

    anchor: str
    title: str
    blocks: tuple[str, ...]


@dataclass(frozen=True)
class EvaluationPictures:
    """Galleries of one evaluation."""

    images: tuple[Gallery, ...] = ()
    suspects: Gallery | None = None


def write_run_report(
    folder: Path, *, evaluations: Sequence[EvaluationFiles] = (), trust: Iterable[str] = (), output: Path | None = None
) -> Path:
    """Write the report of a run.

    Args:
        folder: of the run.
        evaluations: that the caller has read already; see `read_report`.
        trust: modules with code that the config may name.
        output: the file; `<folder>/report.html` by default.

    Raises:
        UserError: it is not the folder of a run.
    """
    report = read_report(folder, evaluations=evaluations, trust=trust)
    return write_text(output or folder / REPORT_FILE, page_text(report))


def log_run_report(folder: Path, *, evaluations: Sequence[EvaluationFiles] = ()) -> Path | None:
    """Write the report at the end of a run; an error is logged with its reason, and the run goes on.

    Args:
        folder: of the run.
        evaluations: see `write_run_report`.
    """
    try:
        path = write_run_report(folder, evaluations=evaluations)
    # Of any kind: hours of training must not end with an error of its report.
    except Exception as error:
        is_explained = isinstance(error, UserError)
        logger.warning(
            "no report of the run was written: %s. `mrcnn-zoo report %s` tries again",
            error if is_explained else f"{type(error).__name__}: {error}",
            folder,
            exc_info=None if is_explained else error,
        )
        return None
    logger.info("report: %s", path)
    return path


def page_text(report: RunReport, *, max_bytes: int = MAX_BYTES) -> str:
    """The page; pictures are reduced, and left out at last, until it is small enough.

    Args:
        report: of a run.
        max_bytes: of the page in UTF-8.
    """
    notes: list[str] = []
    pictures = [
        EvaluationPictures(tuple(image_galleries(item, notes)), suspect_gallery(item, notes))
        for item in report.evaluations
    ]
    count = sum(len(item.pictures) for part in pictures for item in _items(part))
    limit = min(MAX_PICTURE, round(PICTURE_SHARE * max_bytes / BASE64 / max(1, count)))
    fixed = _fixed_blocks(report)
    while True:
        text = _page(report, pictures, fixed, [*report.notes, *notes], limit=limit)
        size = len(text.encode("utf-8"))
        if size <= max_bytes or not count:
            return text
        if limit < 1000:
            pictures, count = [EvaluationPictures() for _ in pictures], 0
            notes.append("Pictures are left out: the page would be too large.")
        limit = round(limit * min(0.7, max_bytes / size))


def _items(pictures: EvaluationPictures) -> list[GalleryItem]:
    galleries = [*pictures.images, *([pictures.suspects] if pictures.suspects else [])]
    return [item for gallery in galleries for item in gallery.items]


@dataclass(frozen=True)
class FixedBlocks:
    """The plots, which take a second to draw and do not depend on the size of the pictures."""

    curves: tuple[str, ...]
    precision: tuple[tuple[str, ...], ...]  # of each evaluation


def _fixed_blocks(report: RunReport) -> FixedBlocks:
    return FixedBlocks(
        tuple(map(html_plot, curve_plots(report))),
        tuple(tuple(_precision_plots(item)) for item in report.evaluations),
    )


def _precision_plots(report: EvaluationReport) -> Iterable[str]:
    if report.curves_file is not None:
        yield from map(html_plot, precision_plots(report.curves_file))
    if report.confusion is not None:
        yield html_plot(confusion_plot(report.confusion))


def _page(
    report: RunReport,
    pictures: Sequence[EvaluationPictures],
    fixed: FixedBlocks,
    notes: Sequence[str],
    *,
    limit: int,
) -> str:
    sections: list[Section] = []
    several = len(report.evaluations) > 1
    for place, (item, images) in enumerate(zip(report.evaluations, pictures, strict=True)):
        found = _evaluation_sections(item, images, fixed.precision[place], limit=limit)
        if several:
            found = [
                Section(
                    f"{part.anchor}-{place + 1}",
                    f"{item.files.name}: {part.title[0].lower()}{part.title[1:]}",
                    part.blocks,
                )
                for part in found
            ]
        sections += [*found[:1], *([_curve_section(report, fixed)] if place == 0 else []), *found[1:]]
    if not report.evaluations:
        sections.append(_curve_section(report, fixed))
    sections += [_time_section(report), _config_section(report), _remarks_section(report, notes)]
    sections = [section for section in sections if section.blocks]
    links = "".join(f'<a href="#{section.anchor}">{escape(section.title)}</a>' for section in sections)
    body = [*headline(report), f"<nav>{links}</nav>"]
    for section in sections:
        body.append(f'<h2 id="{section.anchor}">{escape(section.title)}</h2>')
        body += section.blocks
    title = run_title(report)
    return html_page(title, body, style=resource("run_report.css"), script=resource("run_report.js"))


def _curve_section(report: RunReport, fixed: FixedBlocks) -> Section:
    stages = stage_table(report)
    blocks = [html_table(stages)] if stages.rows else []
    blocks += [f'<div class="plots">{"".join(fixed.curves)}</div>'] if fixed.curves else []
    return Section("curves", "Training", tuple(blocks))


def _evaluation_sections(
    report: EvaluationReport, pictures: EvaluationPictures, plots: Sequence[str], *, limit: int
) -> list[Section]:
    results = [_beside(result_tables(report))]
    confusions, errors = confusion_table(report), error_table(report)
    precision = [f'<div class="plots">{"".join(plots)}</div>'] if plots else []
    precision += [html_table(confusions)] if confusions.rows else []
    images = [f'<p class="caption">{LEGEND.format(threshold=report.score_threshold)}</p>'] if pictures.images else []
    images += [_gallery(gallery, limit) for gallery in pictures.images]
    suspects = [_gallery(pictures.suspects, limit)] if pictures.suspects else []
    return [
        Section("results", "Results", tuple(filter(None, results))),
        Section("precision", "Precision, recall, confusions", tuple(precision)),
        Section("errors", "Errors", (*([html_table(errors)] if errors.rows else []), *funnel_blocks(report))),
        Section("images", "Images", tuple(images)),
        Section("labels", "Suspected label errors", tuple(suspects)),
    ]


def _beside(tables: Sequence[Table]) -> str:
    """Tables beside each other where they have room."""
    return (
        f'<div class="tables">{"".join(f"<div>{html_table(table)}</div>" for table in tables)}</div>' if tables else ""
    )


def _gallery(gallery: Gallery, limit: int) -> str:
    cards = "".join(_card(item, limit) for item in gallery.items)
    heading = "" if gallery.is_small else f"<h3>{escape(gallery.title)}</h3>"
    return (
        f'{heading}<p class="caption">{escape(gallery.text)}</p>'
        f'<div class="gallery{" small" if gallery.is_small else ""}">{cards}</div>'
    )


def _card(item: GalleryItem, limit: int) -> str:
    parts = []
    for name, picture in item.pictures:
        content = jpeg_within(picture, limit)
        label = f"<small>{escape(name)}</small>" if name else ""
        alt = escape(f"{item.title} {name}".strip())
        if content:
            parts.append(f'<div>{label}<img alt="{alt}" src="{data_uri(content, "image/jpeg")}"></div>')
    kind = f'<span class="kind">{escape(item.kind)}</span> ' if item.kind else ""
    return (
        f'<div class="card"><p>{kind}<span class="name">{escape(item.title)}</span></p>'
        f'<div class="pair">{"".join(parts)}</div><p>{escape(item.text)}</p></div>'
    )


def _time_section(report: RunReport) -> Section:
    tables = [time_table(report), *(prediction_table(item) for item in report.evaluations)]
    return Section("time", "Time", tuple(filter(None, [_beside([table for table in tables if table.rows])])))


def _config_section(report: RunReport) -> Section:
    tables = [*change_tables(report), file_table(report)]
    return Section("config", "Config and files", tuple(html_table(table) for table in tables if table.rows))


def _remarks_section(report: RunReport, notes: Sequence[str]) -> Section:
    warnings = report.files.log.warnings
    blocks = []
    if warnings:
        more = [f"... and {len(warnings) - MAX_WARNINGS} more in log.txt"] if len(warnings) > MAX_WARNINGS else []
        blocks.append(f"<h3>Warnings in the log ({len(warnings)})</h3>{html_list([*warnings[:MAX_WARNINGS], *more])}")
    left_out = [*notes, *(note for item in report.evaluations for note in item.notes)]
    if left_out:
        blocks.append(f"<h3>Left out</h3>{html_list(dict.fromkeys(left_out))}")
    return Section("remarks", "Remarks", tuple(blocks))

"""A diagnosis as one HTML page, with pictures of the examples."""

from collections.abc import Iterator, Sequence
from html import escape

import numpy as np
from PIL import Image

from mrcnn_zoo.data.images.arrays import as_pixels
from mrcnn_zoo.data.masks import segmentation_rle
from mrcnn_zoo.data.records import ImageRecord
from mrcnn_zoo.doctor.checks import Diagnosis
from mrcnn_zoo.doctor.examined import DoctorInput
from mrcnn_zoo.doctor.finding import Box, Example, Finding, Severity
from mrcnn_zoo.doctor.report import HEADINGS, dataset_lines, summary_line
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.inspection.canvas import Canvas, Picture, to_picture
from mrcnn_zoo.inspection.html_page import html_list, html_page, picture_uri, resource
from mrcnn_zoo.ops import rle

MARKED, OTHERS = (255, 70, 40), (90, 160, 255)  # colours of the boxes of a finding, and of the other objects
PICTURE_SIDE = 360  # longer side of a picture, pixels
CONTEXT = 6.0  # sides of the part around a small object, relative to it
OPACITY = 0.3  # of the masks of marked objects
SMALL = 0.08  # of the longer side of the image: smaller objects are shown enlarged
SMALLEST_PART = 48  # pixels of the image, at least, that are shown
MAX_OTHERS = 300  # boxes drawn besides


def html_report(diagnosis: Diagnosis, examined: DoctorInput, *, config: str) -> str:
    """The page.

    Args:
        diagnosis: the findings.
        examined: the datasets.
        config: name of the config.
    """
    body = [
        f"<h1>Before the training: {escape(config)}</h1>",
        html_list(dataset_lines(examined)),
        f'<p class="summary">{escape(summary_line(diagnosis))}</p>',
    ]
    for severity in (Severity.ERROR, Severity.WARNING, Severity.NOTE):
        body += [_section(finding) for finding in diagnosis.of(severity)]
    for severity, heading in HEADINGS.items():
        found = diagnosis.of(severity)
        if found:
            body.append(f"<h2>{heading}</h2>{html_list(finding.title for finding in found)}")
    return html_page(f"Before the training: {config}", body, style=resource("doctor.css"))


def _section(finding: Finding) -> str:
    kind = finding.severity.name.lower()
    parts = [
        f'<section class="finding {kind}" data-check="{escape(finding.check)}">',
        f'<h2><span class="kind">{kind}</span> {escape(finding.title)}</h2>',
    ]
    if finding.advice:
        parts.append(f"<p>{escape(finding.advice)}</p>")
    if finding.paste:
        parts.append(f"<pre>{escape(finding.paste)}</pre>")
    figures = "".join(_figure(example) for example in finding.examples)
    return "".join([*parts, f'<div class="examples">{figures}</div>' if figures else "", "</section>"])


def _figure(example: Example) -> str:
    pictures = "".join(
        f'<img alt="{escape(str(example))}" src="{picture_uri(picture)}">' for picture in _pictures(example)
    )
    if not pictures:
        return f'<p class="example">{escape(str(example))}</p>'
    return f'<figure><div class="pictures">{pictures}</div><figcaption>{escape(str(example))}</figcaption></figure>'


def _pictures(example: Example) -> Iterator[Picture]:
    for record in (example.record, example.other):
        if record is not None:
            try:
                pixels = as_pixels(record.source.read(), record.source.name)
            except UserError:
                continue
            if pixels.shape[:2] != tuple(record.image_size):
                yield _scaled(to_picture(pixels))
            else:
                yield example_picture(pixels, record, example.boxes)


def example_picture(pixels: np.ndarray, record: ImageRecord, marked: Sequence[Box]) -> Picture:
    """The image with its objects, or the part around small ones.

    Args:
        pixels: (H, W, C) of the image.
        record: of the image.
        marked: boxes of the finding, drawn in another colour.
    """
    x1, y1, x2, y2 = _part(marked, record.image_size)
    part = _scaled(_tinted(to_picture(pixels), record, marked)[y1:y2, x1:x2])
    factor = part.shape[1] / (x2 - x1)
    canvas = Canvas(part)
    others = [item.box for item in record.instances if item.box not in marked][:MAX_OTHERS]
    for box, color in [*((box, OTHERS) for box in others), *((box, MARKED) for box in marked)]:
        left, top, right, bottom = box
        if left < x2 and right > x1 and top < y2 and bottom > y1:
            drawn = ((left - x1) * factor, (top - y1) * factor, (right - x1) * factor, (bottom - y1) * factor)
            canvas.box(drawn, color)
            if color == MARKED:  # two pixels wide
                canvas.box((drawn[0] - 1, drawn[1] - 1, drawn[2] + 1, drawn[3] + 1), color)
    return canvas.picture()


def _tinted(picture: Picture, record: ImageRecord, marked: Sequence[Box]) -> Picture:
    """A copy of a picture with the masks of the marked objects."""
    tinted = picture.copy()
    for item in record.instances:
        if item.box in marked and item.segmentation is not None:
            mask = rle.decode(segmentation_rle(item.segmentation, record.image_size))
            tinted[mask] = (tinted[mask] * (1 - OPACITY) + np.array(MARKED) * OPACITY).astype(np.uint8)
    return tinted


def _part(marked: Sequence[Box], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The part of the image that is shown, x1 y1 x2 y2: all of it, or a square around small boxes."""
    height, width = size
    if not marked:
        return 0, 0, width, height
    low, high = np.min([box[:2] for box in marked], axis=0), np.max([box[2:] for box in marked], axis=0)
    extent = float((high - low).max())
    if extent >= SMALL * max(size):
        return 0, 0, width, height
    half = max(CONTEXT * extent, SMALLEST_PART) / 2
    x, y = ((low + high) / 2).tolist()
    return (
        max(0, int(x - half)),
        max(0, int(y - half)),
        min(width, int(x + half) + 1),
        min(height, int(y + half) + 1),
    )


def _scaled(picture: Picture) -> Picture:
    """A picture at PICTURE_SIDE pixels on its longer side; smaller ones are enlarged without smoothing."""
    height, width = picture.shape[:2]
    factor = PICTURE_SIDE / max(height, width)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    how = Image.Resampling.NEAREST if factor > 1 else Image.Resampling.BOX
    return np.asarray(Image.fromarray(picture).resize(size, how))

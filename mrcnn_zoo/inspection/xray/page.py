"""The X-ray page: one HTML file on which a person steps through the stages of a detector on one image.

The numbers are those of `data.py`; the scripts and the style are in `resources/xray*`.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from mrcnn_zoo.data.images.reading import FileImage
from mrcnn_zoo.data.images.stacks import StackPage
from mrcnn_zoo.data.loading.mapper import check_size
from mrcnn_zoo.data.records import ImageRecord, ImageSource
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.inference.image_detector import ImageDetector
from mrcnn_zoo.inference.image_inputs import LoadedImage
from mrcnn_zoo.inspection.canvas import distinct_colors
from mrcnn_zoo.inspection.draw import sample_picture
from mrcnn_zoo.inspection.html_page import Cell, Table, html_page, html_table, picture_uri, resource
from mrcnn_zoo.inspection.xray.data import BOXES, MAX_ROWS, PROPOSALS, XrayImage, xray_data
from mrcnn_zoo.inspection.xray.objects import XrayObject, xray_objects
from mrcnn_zoo.modeling.recording import Fate

PAGE_TITLE = "X-ray of "
NUM_COLORS = 24
SCRIPTS = ("xray_history.js", "xray_draw.js", "xray.js", "xray_controls.js")
LAYERS = (
    ("image", "image", True),
    ("heat", "map", True),
    ("boxes", "boxes", True),
    ("lines", "movement", True),
    ("suppressed", "suppressed boxes", True),
    ("bins", "bins", True),
    ("masks", "masks", True),
    ("labels", "labels", True),
    ("objects", "ground truth", False),
)
ORDER_OF_STATES = ("lost", "found", "")
WITH_LEVELS = "anchors refine nms"


@dataclass(frozen=True)
class Step:
    """One step of the page.

    Args:
        name: in the data of the page.
        title: of one to three words.
        text: what is shown, in one to three sentences.
        table: of its numbers, HTML.
    """

    name: str
    title: str
    text: str
    table: str = ""


def xray_image(
    detector: ImageDetector,
    source: ImageSource,
    *,
    channel_order: str = "BGR",
    record: ImageRecord | None = None,
    names: Sequence[str] = (),
    max_detections: int = 100,
) -> XrayImage:
    """Predict one image with a recorder.

    Args:
        detector: a trained model.
        source: of the pixels.
        channel_order: of the model's input, INPUT.FORMAT.
        record: annotations of the image; None without ground truth.
        names: of the classes of the annotations, by index.
        max_detections: per class, that count when detections are matched with objects; -1 for all.

    Raises:
        UserError: the image cannot be read, has another size than in its annotations, or the model records no stages.
    """
    prediction, recording = detector.record(source)
    if not recording.reports:
        raise UserError(
            f"{source.name}: no stage of the model reports boxes, so there is nothing to show. The stages of detectors "
            "and of an RPN do."
        )
    height, width = prediction.pixels.shape[:2]
    loaded = ImageRecord(1, LoadedImage(source.name, prediction.pixels), (height, width))
    sample = detector.mapper(loaded, np.random.default_rng(0))  # the same as that of the prediction
    objects: Sequence[XrayObject] = ()
    if record is not None:
        check_size(record, prediction.pixels)
        objects = xray_objects(
            record,
            names,
            recording,
            prediction.detections,
            detector.class_names,
            max_detections=max_detections,
        )
    return XrayImage(
        name=Path(source.name).name if isinstance(source, FileImage | StackPage) else source.name,
        picture=sample_picture(sample, channel_order=channel_order),
        original_size=(height, width),
        recording=recording,
        detections=prediction.detections,
        class_names=detector.class_names,
        objects=objects,
    )


def xray_page(image: XrayImage, *, start_score: float = 0.5, caption: str = "") -> str:
    """The page of one image.

    Args:
        image: with the recording of its prediction.
        start_score: least score of the detections that are shown at first.
        caption: a line under the title, such as the weights.
    """
    data = xray_data(image)
    steps = list(xray_steps(data))
    colors = [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in distinct_colors(NUM_COLORS)]
    data |= {"steps": [step.name for step in steps], "colors": colors, "startScore": start_score}
    body = [
        f"<h1>{PAGE_TITLE}{escape(image.name)}</h1>",
        f'<p class="caption">{escape(caption)}</p>' if caption else "",
        _strip(steps),
        '<div class="workbench"><main class="view">',
        _view(image, data),
        "</main><aside>",
        *_panels(steps, data),
        "</aside></div>",
    ]
    script = "".join(resource(name) for name in SCRIPTS)
    return html_page(f"{PAGE_TITLE}{image.name}", body, style=resource("xray.css"), script=script, data=data)


def xray_steps(data: Mapping[str, Any]) -> Iterator[Step]:
    """The steps of which the recording has data.

    Args:
        data: of `xray_data`.
    """
    yield Step("input", "Input", _input_text(data["image"]))
    if data["features"]:
        yield Step("features", "Feature levels", FEATURES_TEXT, _feature_table(data["features"]))
    stages = {stage["name"]: stage for stage in data["stages"]}
    if data["anchors"]:
        yield from _anchor_steps(data, data["stages"][0])
    if data["regions"]:
        yield from _region_steps(data["regions"])
    if BOXES in stages:
        yield from _box_steps(stages, has_regions=data["regions"] is not None)
    if data["masks"]:
        side = data["masks"]["side"]
        yield Step(
            "soft",
            "Soft masks",
            f"The mask head gives {side} x {side} probabilities per detection, here pasted into its box. The grid "
            "below is that of the chosen detection.",
        )
    what = "Masks are the pixels of a probability of at least the threshold." if data["masks"] else ""
    yield Step("result", "Result", f"The {len(data['detections']):,} detections of the image. {what}".strip())


def _input_text(image: Mapping[str, Any]) -> str:
    width, height = image["width"], image["height"]
    original_width, original_height = image["originalWidth"], image["originalHeight"]
    if (width, height) == (original_width, original_height):
        resized = f"The network gets the image as it is, {width} x {height} pixels (width x height)."
    else:
        resized = (
            f"The network gets the image resized from {original_width} x {original_height} to {width} x {height} "
            f"pixels (width x height), {width / original_width:.2f} times as large."
        )
    return f"{resized} All steps show boxes in pixels of this image."


FEATURES_TEXT = (
    "The maps of the backbone: the mean over their channels, and the channels that vary most. A cell is drawn on the "
    "pixels that it stands for; padding is left out."
)


def _feature_table(features: Sequence[Mapping[str, Any]]) -> str:
    rows = tuple(
        (
            Cell(level["name"]),
            Cell(f"{level['grid']['stride']}"),
            Cell(f"{level['size'][1]} x {level['size'][0]}"),
            Cell(f"{level['channels']}"),
        )
        for level in features
    )
    return html_table(Table("Maps, with padding", ("map", "stride", "cells", "channels"), rows))


def _anchor_steps(data: Mapping[str, Any], stage: Mapping[str, Any]) -> Iterator[Step]:
    counts, total = stage["counts"], data["anchors"]["total"]
    is_rpn = stage["name"] == PROPOSALS
    score = "objectness" if is_rpn else "highest class score"
    if data["scoreMaps"]:
        text = (
            f"The {score} of the {total:,} anchors: the highest of each cell, or that of one anchor shape. A cell is "
        )
        text += "drawn around the centre of its anchors."
        yield Step("scores", "Objectness" if is_rpn else "Class scores", text)
    below = counts.get("below_threshold", 0)
    chosen = f"{total - counts.get('not_in_top_k', 0) - below:,} of {total:,} anchors"
    if is_rpn:
        text = f"{chosen} have one of the best k scores of their level; the others are removed."
    else:
        text = f"{stage['total'] - counts.get('not_in_top_k', 0) - below:,} class scores are above the threshold and "
        text += f"among the best k of their level; {below:,} anchors have none above the threshold."
    shown = sum(fate not in (Fate.NOT_IN_TOP_K, Fate.BELOW_THRESHOLD) for fate in stage["fates"])
    part = f" The page has the best {shown:,}." if shown == MAX_ROWS else ""
    yield Step("anchors", "Top k anchors", f"{text} The colour is that of the level.{part}")
    small = counts.get("too_small", 0) + counts.get("not_finite", 0)
    removed = f" {small:,} without width or height inside the image are removed." if small else ""
    name = "proposal" if is_rpn else "box"
    clipped = ", clipped to the image" if is_rpn else ""
    yield Step("refine", f"{name.capitalize()} movement", f"Each anchor moves to its {name}{clipped}.{removed}")
    if is_rpn:
        yield Step(
            "nms",
            "NMS of proposals",
            f"{counts.get('suppressed', 0):,} proposals are suppressed by a better one that they overlap, "
            f"{counts.get('beyond_limit', 0):,} are beyond the limit per image, and {counts.get('kept', 0):,} are kept "
            "(green). Point at a kept box to see those that it suppressed.",
        )


def _region_steps(regions: Mapping[str, Any]) -> Iterator[Step]:
    pooling, count = regions["pooling"], len(regions["boxes"]) // 4
    if pooling:
        names = pooling["names"]
        found = [f"{pooling['levels'].count(place):,} from {name}" for place, name in enumerate(names)]
        sizes = " Small regions are pooled from fine maps, large ones from coarse maps." if len(names) > 1 else ""
        yield Step("levels", "Level of regions", f"The {count:,} regions of the box head: {', '.join(found)}.{sizes}")
        yield Step(
            "bins",
            "Pooling bins",
            f"The {pooling['side']} x {pooling['side']} bins (white) of the chosen region, and the cells of its map "
            f"(blue). Operation: {pooling['operation']}.",
        )
    yield Step("classes", "Class scores", f"The box head scores all classes for each of {count:,} regions.")


def _box_steps(stages: Mapping[str, Mapping[str, Any]], *, has_regions: bool) -> Iterator[Step]:
    boxes = stages[BOXES]
    counts = boxes["counts"]
    if has_regions:
        passes = [name for name in stages if name.startswith("boxes of stage")]
        over = f" in {len(passes) + 1} stages" if passes else ""
        text = f"Each region moves to the predicted box of its class{over}, clipped to the image."
        yield Step("boxes", "Box movement", text)
    yield Step(
        "classnms",
        "NMS per class",
        f"{counts.get('suppressed', 0):,} boxes are suppressed by a better one of their class, "
        f"{counts.get('beyond_limit', 0):,} are beyond the limit per image, {counts.get('kept', 0):,} are kept "
        f"(green); {counts.get('below_threshold', 0):,} regions or anchors have no class above the threshold.",
    )


def _strip(steps: Sequence[Step]) -> str:
    buttons = "".join(
        f'<li><button type="button" data-step="{step.name}">{number}. {escape(step.title)}</button></li>'
        for number, step in enumerate(steps, start=1)
    )
    return f'<nav aria-label="Steps"><ol class="steps">{buttons}</ol></nav>'


def _view(image: XrayImage, data: Mapping[str, Any]) -> str:
    layers = "".join(
        f'<label><input type="checkbox" data-layer="{name}"{" checked" if is_on else ""}>{title}</label>'
        for name, title, is_on in LAYERS
        if name != "objects" or data["objects"]
    )
    levels = "".join(
        f'<label><input type="checkbox" data-level="{number}" checked><i class="swatch" style="background: '
        f'{data["colors"][number % NUM_COLORS]}"></i>{escape(level["name"])}</label>'
        for number, level in enumerate(data["levels"])
    )
    return (
        '<div class="turn"><button type="button" id="previous">← Previous</button><output id="place"></output>'
        '<button type="button" id="next">Next →</button>'
        '<label><input type="checkbox" id="zoom"> zoom</label></div>'
        f'<img id="resized-image" alt="" src="{picture_uri(image.picture)}">'
        '<div class="frame"><canvas id="picture" role="img" tabindex="0"></canvas></div>'
        '<p class="status caption"><span id="count-text" role="status"></span><span id="value"></span></p>'
        '<div class="controls" data-for="refine boxes"><label>start <input type="range" id="movement" min="0" max="1" '
        'step="0.01" value="1" aria-label="movement from start to end"> end</label>'
        '<button type="button" id="play">Play</button></div>'
        '<div class="controls"><label>best boxes <input type="range" id="count" min="1" max="100"></label></div>'
        f'<div class="controls" role="group" aria-label="Layers"><b>Layers</b>{layers}</div>'
        f'<div class="controls" role="group" aria-label="Levels" data-for="{WITH_LEVELS}"><b>Levels</b>{levels}</div>'
        '<div class="controls" data-for="features scores"><label><input type="checkbox" id="stretch">'
        "stretch the contrast of the maps</label></div>"
    )


def _panels(steps: Sequence[Step], data: Mapping[str, Any]) -> Iterator[str]:
    texts = "".join(
        f'<div data-text="{step.name}"><h2>{escape(step.title)}</h2><p>{escape(step.text)}</p>{step.table}</div>'
        for step in steps
    )
    yield f'<section>{texts}<div id="detail"></div></section>'
    yield (
        '<section><div class="title"><h2>History</h2><button type="button" id="clear">Clear choice</button></div>'
        '<p class="caption" id="history-hint">Point at a box or tap it, or choose a detection below. A further click '
        "at the same point chooses the next box there. Keys: ← and → change the step.</p>"
        '<p id="object-text" role="status"></p><ol class="history" id="history-list"></ol></section>'
    )
    yield (
        '<section><h2>Detections</h2><label class="caption">least score <input type="range" id="least" min="0" max="1" '
        f'step="0.01" value="{data["startScore"]}"> <span id="least-text"></span></label>'
        '<ul class="detections" id="detection-list"></ul></section>'
    )
    if data["objects"]:
        objects = data["objects"]
        order = sorted(range(len(objects)), key=lambda number: ORDER_OF_STATES.index(objects[number]["state"]))
        cards = "".join(_card(number, objects[number], steps) for number in order)
        counts = Counter(item["state"] for item in objects)
        summary = ", ".join(f"{counts[state]:,} {state or 'not traced'}" for state in ORDER_OF_STATES if counts[state])
        yield f'<section><h2>Ground truth</h2><p class="caption">{summary}</p><ul class="objects">{cards}</ul>'
        yield "</section>"


def _card(number: int, item: Mapping[str, Any], steps: Sequence[Step]) -> str:
    names = [step.name for step in steps]
    step = item["step"] if item["step"] in names else "result"
    crowd = " (crowd)" if item["crowd"] else ""
    text = escape(item["text"] or "annotated")
    best = " · ".join(f"{name} {value:.2f}" for name, value in item["best"].items())
    return (
        f'<li class="{item["state"]}"><button type="button" data-object="{number}" data-jump="{step}" '
        f'aria-pressed="false"><b>Object {number + 1}: {escape(item["name"])}{crowd}</b> {text}'
        + (f"<small>Best IoU: {escape(best)}</small>" if best else "")
        + "</button></li>"
    )

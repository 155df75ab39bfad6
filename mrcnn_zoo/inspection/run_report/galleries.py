"""Galleries of a run report: best, worst and most confidently wrong images, and suspected label errors."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any, TypeVar

import numpy as np

from mrcnn_zoo.errors import UserError, counted
from mrcnn_zoo.evaluation.image_ranking import (
    ImageResult,
    best_images,
    confidently_wrong_images,
    image_results,
    worst_images,
)
from mrcnn_zoo.evaluation.label_errors import Suspect, find_label_errors
from mrcnn_zoo.inspection.canvas import Picture
from mrcnn_zoo.inspection.run_report.pictures import ReportArtist
from mrcnn_zoo.inspection.run_report.report import EvaluationReport
from mrcnn_zoo.inspection.suspect_pictures import annotations_by_image, other_annotations, suspect_halves

NUM_IMAGES = 6  # of each gallery
NUM_SUSPECTS = 24
SUSPECT_TEXT = (
    "The annotations in question are green, detections magenta, other annotations blue; the contrast is stretched. "
    "Some suspects are errors of the model: check each before you correct it."
)
MAX_NAME = 26  # characters of a file name; of a longer one the middle is left out
MOST_WRONG = (
    "Ranked by the most confident error: the score of a false detection, or the share of found objects of the class "
    "where an object is missed."
)
SCORED = "Ranked by the sum of IoU over found objects plus half of the missed ones and of the false detections."

Chosen = TypeVar("Chosen")


@dataclass(frozen=True)
class GalleryItem:
    """An image of a gallery.

    Args:
        title: name of the image file.
        text: what is seen.
        pictures: with the name of each.
        kind: of a suspect; "" for others.
    """

    title: str
    text: str
    pictures: tuple[tuple[str, Picture], ...]
    kind: str = ""


@dataclass(frozen=True)
class Gallery:
    """Images of one kind.

    Args:
        title: heading.
        text: below it.
        items: in their order.
        is_small: whether the pictures are small.
    """

    title: str
    text: str
    items: tuple[GalleryItem, ...]
    is_small: bool = False


def image_galleries(report: EvaluationReport, notes: list[str]) -> list[Gallery]:
    """The images with the best and worst detections, and those with the most confident errors.

    Args:
        report: of an evaluation; without its dataset there are none.
        notes: gets a line about images that cannot be read.
    """
    dataset, evaluated = report.files.dataset, report.files.evaluated
    if dataset is None or evaluated is None:
        return []
    results = image_results(evaluated, score_threshold=report.score_threshold)
    artist = ReportArtist(dataset, evaluated, score_threshold=report.score_threshold)
    drawn: dict[int | str, GalleryItem] = {}  # an image may be in two galleries

    def draw(result: ImageResult) -> GalleryItem:
        number = result.image["id"]
        if number not in drawn:
            drawn[number] = _image_item(artist, result)
        return drawn[number]

    def draw_error(result: ImageResult) -> GalleryItem:
        return replace(draw(result), text=result.errors[0].text)

    chosen = worst_images(results, NUM_IMAGES)
    best = [result for result in best_images(results, NUM_IMAGES) if result not in chosen]
    wrong = confidently_wrong_images(results, NUM_IMAGES)
    return [
        gallery
        for gallery in (
            Gallery("Most confidently wrong", MOST_WRONG, _drawn(wrong, draw_error, notes)),
            Gallery("Worst images", SCORED, _drawn(chosen, draw, notes)),
            Gallery("Best images", SCORED, _drawn(best, draw, notes)),
        )
        if gallery.items
    ]


def _image_item(artist: ReportArtist, result: ImageResult) -> GalleryItem:
    number = result.image["id"]
    truth, found = artist.pair(number)
    iou = f", mean IoU {result.mean_iou:.2f}" if result.found else ""
    text = (
        f"{len(result.found)} of {counted(result.num_objects, 'object')} found{iou}; "
        f"{counted(result.num_false, 'false detection')}; score {result.score:.2f}"
    )
    return GalleryItem(_name(result.image), text, (("annotations", truth), ("detections", found)))


def _name(image: Mapping[str, Any]) -> str:
    name = PurePath(str(image.get("file_name", ""))).name or str(image["id"])
    return name if len(name) <= MAX_NAME else f"{name[: MAX_NAME // 2]}...{name[-MAX_NAME // 2 :]}"


def suspect_gallery(report: EvaluationReport, notes: list[str]) -> Gallery | None:
    """The most suspicious annotations, each with a crop; None without dataset.

    Args:
        report: of an evaluation.
        notes: gets a line about images that cannot be read.
    """
    dataset, evaluated = report.files.dataset, report.files.evaluated
    if dataset is None or evaluated is None:
        return None
    suspects = find_label_errors(evaluated)
    kinds = ", ".join(f"{count} {kind}" for kind, count in Counter(item.kind for item in suspects).most_common())
    text = f"{counted(len(suspects), 'suspect')}" + (f": {kinds}. " if suspects else ". ") + SUSPECT_TEXT
    sources = {record.image_id: record.source for record in dataset.records}
    annotations = annotations_by_image(evaluated.ground_truth["annotations"])

    def draw(suspect: Suspect) -> GalleryItem:
        pixels = np.asarray(sources[suspect.image["id"]].read())
        halves = suspect_halves(pixels, suspect, others=other_annotations(suspect, annotations))
        kind = f"{suspect.kind}, {suspect.score:.2f}"
        return GalleryItem(_name(suspect.image), suspect.text, tuple(zip(("", ""), halves, strict=True)), kind=kind)

    return Gallery("Suspected label errors", text, _drawn(suspects[:NUM_SUSPECTS], draw, notes), is_small=True)


def _drawn(
    chosen: Iterable[Chosen], draw: Callable[[Chosen], GalleryItem], notes: list[str]
) -> tuple[GalleryItem, ...]:
    """The items whose image can be read; a note has the first error and the number of the others."""
    items, errors = [], []
    for item in chosen:
        try:
            items.append(draw(item))
        except UserError as error:
            errors.append(str(error))
    if errors:
        more = f" ({len(errors) - 1} more)" if len(errors) > 1 else ""
        notes.append(f"An image is left out: {errors[0]}{more}")
    return tuple(items)

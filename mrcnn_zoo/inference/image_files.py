"""Prediction on image files: a picture per image, a COCO dataset and a CSV table of the detected objects."""

import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from mrcnn_zoo.choices import OBJECTS, SPLASH
from mrcnn_zoo.data.given_boxes import BoxesOfImage
from mrcnn_zoo.data.images.reading import IMAGE_SUFFIXES
from mrcnn_zoo.data.records import Dataset, ImageSource
from mrcnn_zoo.errors import UserError, counted
from mrcnn_zoo.evaluation.limits import DetectionTally, log_notes
from mrcnn_zoo.inference.image_detector import ImageDetector
from mrcnn_zoo.inference.image_inputs import FoundImages
from mrcnn_zoo.inference.object_table import as_texts, table_columns
from mrcnn_zoo.inference.predicted_dataset import predicted_dataset
from mrcnn_zoo.inference.prediction import Prediction, coco_rows
from mrcnn_zoo.inference.thresholds import ScoreThreshold, reaches
from mrcnn_zoo.inspection.draw import draw_instances, draw_splash
from mrcnn_zoo.inspection.pictures import is_own_picture, save_picture
from mrcnn_zoo.output_files import check_output_folder, csv_text, refuse_to_replace, write_json, write_text
from mrcnn_zoo.progress import ProgressLine, show_progress

PREDICTIONS_FILE, TABLE_FILE = "predictions.json", "predictions.csv"
DESCRIPTION = "predictions of mrcnn_zoo"  # "description" of predictions.json, by which earlier runs are recognized

logger = logging.getLogger(__name__)


@dataclass
class PredictedImages:
    """The results of `predict_images`."""

    counts: dict[str, Counter[str]] = field(default_factory=dict)  # image or page -> number of objects by class name
    failures: list[str] = field(default_factory=list)  # one message per image that cannot be read
    pictures: list[Path] = field(default_factory=list)  # the written files

    @property
    def num_objects(self) -> int:
        """Number of objects in all images."""
        return sum(counter.total() for counter in self.counts.values())


def predict_images(
    detector: ImageDetector,
    found: FoundImages,
    output: str | Path,
    *,
    score_threshold: ScoreThreshold,
    batch_size: int = 1,
    has_labels: bool = True,
    style: str = OBJECTS,
    tally: DetectionTally | None = None,
    given: Mapping[str, BoxesOfImage] | None = None,
) -> PredictedImages:
    """Detect objects in image files; write pictures, predictions.json (a COCO dataset) and predictions.csv.

    Images that cannot be read are logged and skipped. An interrupt (Ctrl-C) writes the tables of the images so far.

    Args:
        detector: of the objects.
        found: image files, see `find_images`.
        output: folder of the written files; nothing is written if no image can be read.
        score_threshold: minimum score of a written detection, in [0, 1]; of all classes, or by class index.
        batch_size: images per forward pass.
        has_labels: whether classes and scores are drawn.
        style: of the pictures, one of PICTURE_STYLES.
        tally: counts images where a limit of the model may have removed detections; its notes are logged at the end.
        given: boxes of a `GivenBoxDetector` by file; predictions.json has their image ids, and their annotation ids as
            "given_id".

    Raises:
        UserError: the output cannot be written or would overwrite the images.
    """
    output = Path(output)
    names = [source.name for source, _ in found.sources()]
    picture_of = dict(zip(names, picture_paths(found, output), strict=True))
    with_labels = partial(draw_instances, class_names=detector.class_names, has_labels=has_labels)
    draw = draw_splash if style == SPLASH else with_labels
    result = PredictedImages()
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    table: list[dict[str, object]] = []
    image_ids = dict(zip(names, _image_ids(names, given or {}), strict=True))
    try:
        for prediction, is_shown in predict_files(
            detector, found, result, threshold=score_threshold, batch_size=batch_size, tally=tally
        ):
            file, pixels = prediction.name, prediction.pixels
            result.pictures.append(save_picture(draw(pixels, prediction.detections), picture_of[file]))
            image_id = image_ids[file]
            images.append({"id": image_id, "file_name": file, "height": pixels.shape[0], "width": pixels.shape[1]})
            rows = coco_rows(prediction.detections, image_id, detector.categories)
            if given and file in given:
                rows = _with_given_ids(rows, given[file], is_shown)
            for row in rows:
                annotations.append({"id": len(annotations) + 1, **row, "iscrowd": 0})
            table += prediction.table_rows()
            result.counts[file] = Counter(prediction.names)
    except KeyboardInterrupt:
        logger.warning("stopped after %s of %s", f"{len(images):,}", counted(len(names), "image"))
        raise
    finally:  # the objects of the pictures that are written
        if images:
            _write_tables(output, detector, images, annotations, table)
    return result


def predict_files(
    detector: ImageDetector,
    found: FoundImages,
    result: PredictedImages,
    *,
    threshold: ScoreThreshold,
    batch_size: int = 1,
    tally: DetectionTally | None = None,
) -> Iterator[tuple[Prediction, list[bool]]]:
    """The predictions of image files, with progress on a terminal; images that cannot be read are logged and skipped.

    Args:
        detector: of the objects.
        found: image files, see `find_images`.
        result: to which failures are added.
        threshold: minimum score, in [0, 1]; of all classes, or by class index.
        batch_size: images per forward pass.
        tally: see `predict_images`.

    Yields:
        The objects with the minimum score, and for each detection of the model whether it has it.
    """
    result.failures += found.problems
    for problem in found.problems:
        logger.error("%s", problem)
    sources = [source for source, _ in found.sources()]
    line = ProgressLine("predict", total=len(sources))

    def skip(_: ImageSource, error: UserError) -> None:
        result.failures.append(str(error))
        logger.error("%s", error)

    with show_progress(line) as display:
        add = None if tally is None else tally.add
        for everything in detector.stream(sources, batch_size=batch_size, skip=skip, add=add):
            prediction = everything.above(threshold)
            yield prediction, reaches(everything.detections, threshold).tolist()
            logger.info("%s: %s", prediction.name, counted(len(prediction), "object"))
            line.done = everything.image_id
            if display is not None:
                display.refresh()
    if tally is not None:
        log_notes(tally.notes(), logged=set())


def predict_dataset(
    detector: ImageDetector,
    found: FoundImages,
    *,
    score_threshold: ScoreThreshold,
    batch_size: int = 1,
    tally: DetectionTally | None = None,
) -> tuple[Dataset, PredictedImages]:
    """Detect objects in image files.

    Images that cannot be read are logged and skipped; an object whose mask has no pixel is left out and counted.

    Args:
        detector: of the objects.
        found: image files, see `find_images`.
        score_threshold: minimum score, in [0, 1]; of all classes, or by class index.
        batch_size: images per forward pass.
        tally: see `predict_images`.

    Returns:
        Objects with scores, and counts and failures; no records where no image can be read.
    """
    result = PredictedImages()

    def predictions() -> Iterator[Prediction]:
        for prediction, _ in predict_files(
            detector, found, result, threshold=score_threshold, batch_size=batch_size, tally=tally
        ):
            yield prediction

    dataset = predicted_dataset(predictions(), detector.class_names, detector.category_ids)
    for record in dataset.records:
        result.counts[record.source.name] = Counter(dataset.class_names[item.class_index] for item in record.instances)
    return dataset, result


def _image_ids(files: Sequence[str], given: Mapping[str, BoxesOfImage]) -> list[int | str]:
    """Ids of the given boxes, and unused numbers for the other images; 1, 2, ... without given boxes."""
    ids = [given[file].image_id if file in given else None for file in files]
    numbers = count(1 + max((number for number in ids if isinstance(number, int)), default=0))
    return [next(numbers) if image_id is None else image_id for image_id in ids]


def _with_given_ids(
    rows: Sequence[dict[str, Any]], boxes: BoxesOfImage, is_shown: Sequence[bool]
) -> list[dict[str, Any]]:
    ids = [given_id for given_id, shown in zip(boxes.ids, is_shown, strict=True) if shown]
    return [row if given_id is None else {**row, "given_id": given_id} for row, given_id in zip(rows, ids, strict=True)]


def picture_paths(found: FoundImages, output: Path) -> list[Path]:
    """Paths of the pictures, one per image: PNG files in the same sub-folders as the images, numbered if equal.

    Args:
        found: the image files.
        output: folder of the pictures.

    Raises:
        UserError: a picture would overwrite one of the images.
    """
    originals = {file.resolve() for file in found.files}
    taken = set(originals)
    paths: list[Path] = []
    for _, place in found.sources():
        path = output / f"{place}.png"
        if path.resolve() in originals:
            raise UserError(
                f"--output {output} contains the images, and {path} would be overwritten. Name another folder."
            )
        number = 1
        while path.resolve() in taken:  # images of the same name in several folders
            number += 1
            path = output / f"{place}_{number}.png"
        taken.add(path.resolve())
        paths.append(path)
    return paths


def check_predictions_folder(folder: str | Path, found: FoundImages, *, overwrite: bool) -> Path:
    """Check the output folder of predictions before the model runs; predictions of an earlier run are replaced.

    Args:
        folder: as given by the user.
        found: the images.
        overwrite: whether files that are not predictions are replaced, too.

    Returns:
        The folder with `~` expanded.

    Raises:
        UserError: the folder cannot be written, contains the images, or has files that would be replaced.
    """
    if Path(folder).suffix.lower() in IMAGE_SUFFIXES and not Path(folder).expanduser().is_dir():
        raise UserError(f"--output {folder} is the name of a picture; name the folder of the pictures and tables.")
    output = check_output_folder(folder, option="--output")
    table, predictions = output / TABLE_FILE, output / PREDICTIONS_FILE
    is_earlier_run = _is_own_file(predictions)
    pictures = [path for path in picture_paths(found, output) if path.exists()]
    for path in (predictions, table, *pictures):
        if path.is_dir():
            raise UserError(f"--output {output}: {path} is a folder in place of a file; name another folder.")
    foreign = [path for path in pictures if not is_own_picture(path)]
    if not is_earlier_run:
        foreign += [path for path in (predictions, table) if path.exists()]
    if not overwrite:
        refuse_to_replace(foreign, option="--output")
    if is_earlier_run:
        logger.info("the predictions of an earlier run in %s will be replaced", output)
    return output


def _is_own_file(path: Path) -> bool:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    info = content.get("info") if isinstance(content, dict) else None
    return isinstance(info, dict) and info.get("description") == DESCRIPTION


def _write_tables(
    output: Path,
    detector: ImageDetector,
    images: Sequence[dict[str, Any]],
    annotations: Sequence[dict[str, Any]],
    table: Sequence[dict[str, object]],
) -> None:
    content = {
        "info": {"description": DESCRIPTION},
        "images": images,
        "categories": [{"id": number, "name": name} for number, name in detector.categories],
        "annotations": annotations,
    }
    write_json(output / PREDICTIONS_FILE, content)
    has_mask_scores = any("mask_score" in row for row in table)
    columns = table_columns(detector.mapper.reader.num_channels, has_mask_scores=has_mask_scores)
    write_text(output / TABLE_FILE, csv_text([columns, *map(as_texts, table)]))

"""Detect objects in image files: draws them, and writes predictions.json (COCO format) and predictions.csv.

With --format NAME the output folder is a dataset of that format instead, with scores where it has a place for them:
open it in the tool of the format, correct it, and train on it, DATASETS.TRAIN FOLDER.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tabulate import tabulate

from mrcnn_zoo.checkpoint import WeightsFile
from mrcnn_zoo.cli.options import (
    add_config_option,
    add_output_options,
    add_overrides,
    add_trust_option,
    add_weights_option,
    given_weights,
    logging_lines,
    prepare_device,
)
from mrcnn_zoo.cli.parser import (
    CONFIG_SUFFIXES,
    CommandParser,
    names_key,
    names_weights,
    read_arguments,
    score,
    whole_number,
)
from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.config.values import typed_list
from mrcnn_zoo.data.annotations.contract import AnnotationFormat
from mrcnn_zoo.data.annotations.folders import check_dataset_folder, write_dataset
from mrcnn_zoo.data.annotations.loading import PAGES_ARE_IMAGES
from mrcnn_zoo.data.given_boxes import BoxesOfImage, read_given_boxes
from mrcnn_zoo.data.images.reading import IMAGE_SUFFIXES
from mrcnn_zoo.errors import counted
from mrcnn_zoo.evaluation.limits import DetectionTally, build_detection_tally
from mrcnn_zoo.inference.given_boxes import (
    box_source_of_files,
    boxes_of_files,
    build_given_box_detector,
    check_takes_boxes,
)
from mrcnn_zoo.inference.image_detector import ImageDetector, build_image_detector
from mrcnn_zoo.inference.image_files import (
    OBJECTS,
    PREDICTIONS_FILE,
    STYLES,
    TABLE_FILE,
    PredictedImages,
    check_predictions_folder,
    predict_images,
)
from mrcnn_zoo.inference.image_inputs import FoundImages, find_images
from mrcnn_zoo.inference.predicted_dataset import predict_dataset
from mrcnn_zoo.inference.thresholds import (
    BEST,
    DEFAULT_THRESHOLD,
    FILE_SUFFIX,
    ScoreThreshold,
    lowest,
    resolve_threshold,
)
from mrcnn_zoo.inference.trained import open_trained
from mrcnn_zoo.output_files import check_output_folder
from mrcnn_zoo.progress import terminal_width
from mrcnn_zoo.registries import ANNOTATION_FORMATS

SOME_IMAGES_FAILED = 1
IMAGES_SHOWN, NAME_SHOWN, TABLE_WIDTH = 20, 40, 100  # rows, characters of a name, characters of a row


def main(argv: Sequence[str] | None = None) -> int:
    """Predict on images and folders; returns 0, or 1 when some image could not be read.

    Args:
        argv: the arguments; None takes those of the process.
    """
    arguments = read_arguments(build_parser(), argv, is_input=is_image_input)
    with logging_lines():
        weights = given_weights(arguments)
        exclude = Path(arguments.output).expanduser()
        found = find_images(arguments.inputs, recursive=arguments.recursive, exclude=exclude)
        write = _write_dataset if arguments.format else _write_predictions
        result, summary = write(arguments, weights, found)
    if result.counts:
        print(f"\n{summary}")
    if result.failures:
        print(f"error: {_failures(result)}", file=sys.stderr)
    return SOME_IMAGES_FAILED if result.failures else 0


def _write_predictions(arguments: argparse.Namespace, weights: str, found: FoundImages) -> tuple[PredictedImages, str]:
    """Pictures, predictions.json and predictions.csv, and the text about them."""
    output = check_predictions_folder(arguments.output, found, overwrite=arguments.overwrite)
    opened = _open(arguments, weights, found)
    result = predict_images(
        opened.detector,
        found,
        output,
        score_threshold=opened.threshold,
        batch_size=arguments.batch_size,
        has_labels=not arguments.no_labels,
        style=arguments.style,
        tally=opened.tally,
        given=opened.given,
    )
    return result, _summary(result, output, threshold=_threshold(arguments)) if result.counts else ""


def _write_dataset(arguments: argparse.Namespace, weights: str, found: FoundImages) -> tuple[PredictedImages, str]:
    """A dataset of the format of `--format`, and the text about it."""
    kind: AnnotationFormat = ANNOTATION_FORMATS.get(arguments.format, key="--format")()
    output = check_output_folder(arguments.output, option="--output")
    check_dataset_folder(output, may_overwrite=arguments.overwrite)
    opened = _open(arguments, weights, found)
    dataset, result = predict_dataset(
        opened.detector,
        found,
        score_threshold=opened.threshold,
        batch_size=arguments.batch_size,
        tally=opened.tally,
    )
    if not dataset.records:
        return result, ""
    copies = arguments.copy_images or not kind.finds_images_elsewhere
    lost = write_dataset(
        {"": dataset}, output, kind, copies_images=copies, tolerance=opened.tolerance, may_overwrite=arguments.overwrite
    )
    lines = [
        count_table(result.counts, rest=""),
        "",
        f"{_objects(result, threshold=_threshold(arguments))}. Written: {output}, {kind.title}, "
        f"{'with the images' if copies else 'which refers to the image files'}.",
        *(f"  {note}" for note in (*dataset.notes, *lost)),
        f"To train on it, e.g. after corrections: DATASETS.TRAIN {typed_list([str(output)])}",
    ]
    return result, "\n".join(lines)


@dataclass(frozen=True)
class _Opened:
    """A trained model that is ready for images."""

    detector: ImageDetector
    threshold: ScoreThreshold
    given: Mapping[str, BoxesOfImage] | None
    tally: DetectionTally | None
    tolerance: float  # RESULTS.SIMPLIFY


def _open(arguments: argparse.Namespace, weights: str, found: FoundImages) -> _Opened:
    boxes = None if arguments.boxes is None else read_given_boxes(arguments.boxes)
    given = None if boxes is None else boxes_of_files(boxes, found.files)

    def check(cfg: CfgNode, _: WeightsFile) -> None:
        prepare_device(cfg)
        found.pages_are_images = cfg.INPUT.PAGES == PAGES_ARE_IMAGES
        if found.pages_are_images and not arguments.format:
            check_predictions_folder(arguments.output, found, overwrite=arguments.overwrite)
        if boxes is not None:
            check_takes_boxes(cfg, option="--boxes")

    model, cfg, trained = open_trained(
        weights, config=arguments.config_file, overrides=arguments.overrides, trust=arguments.trust, check=check
    )
    if boxes is not None and given is not None:
        class_of_id = boxes.class_of_id(trained.class_names, trained.category_ids, images=given.values())
        model = build_given_box_detector(cfg, model, box_source_of_files(given, class_of_id), option="--boxes")
    threshold = resolve_threshold(_threshold(arguments) or 0.0, trained, option="--threshold")
    detector = build_image_detector(cfg, model, trained, score_threshold=lowest(threshold), option="--threshold")
    tally = build_detection_tally(cfg, min_score=lowest(threshold)) if given is None else None
    return _Opened(detector, threshold, given, tally, cfg.RESULTS.SIMPLIFY)


def _threshold(arguments: argparse.Namespace) -> float | str | None:
    """The minimum score, "best" or a file of scores; None where all given boxes are shown."""
    is_default = arguments.threshold is None and arguments.boxes is None
    return DEFAULT_THRESHOLD if is_default else arguments.threshold


def _summary(result: PredictedImages, output: Path, *, threshold: float | str | None) -> str:
    written = {
        str(output / PREDICTIONS_FILE): "boxes, masks, areas and scores, in COCO format",
        str(output / TABLE_FILE): "a row per object: image, class, score, box, area",
        f"{output}/*.png" if len(result.counts) > 1 else str(result.pictures[0]): "the objects drawn",
    }
    width = max(map(len, written))
    files = (f"  {path:{width}}  {what}" for path, what in written.items())
    return "\n".join([count_table(result.counts), "", f"{_objects(result, threshold=threshold)}. Written:", *files])


def _objects(result: PredictedImages, *, threshold: float | str | None) -> str:
    """The number of objects, how they were chosen, and the number of images."""
    chosen = "in all given boxes"
    if threshold is not None:
        lowest_score = "that of highest F1 of their class" if isinstance(threshold, str) else format(threshold, "g")
        chosen = f"with a score of at least {lowest_score}"
    return f"{counted(result.num_objects, 'object')} {chosen} in {counted(len(result.counts), 'image')}"


def count_table(counts: dict[str, Counter[str]], *, rest: str = f"; {TABLE_FILE} has all") -> str:
    """Table of objects per image and class: the first images, and the most frequent classes that fit.

    Args:
        counts: objects by class, by image.
        rest: where the others are, for the line below an incomplete table.
    """
    totals: Counter[str] = sum(counts.values(), Counter())
    columns = len(totals)
    table = _count_table(counts, totals, columns)
    width = min(TABLE_WIDTH, terminal_width(sys.stdout) or TABLE_WIDTH)
    while columns > 1 and max(map(len, table.splitlines())) > width:
        columns -= 1
        table = _count_table(counts, totals, columns)
    images, classes = max(0, len(counts) - IMAGES_SHOWN), len(totals) - columns
    if images or classes:
        parts = [counted(images, "more image")] * bool(images) + [counted(classes, "more class")] * bool(classes)
        table += f"\nNot shown: {' and '.join(parts)}{rest}."
    return table


def _count_table(counts: dict[str, Counter[str]], totals: Counter[str], num_columns: int) -> str:
    shown = [name for name, _ in totals.most_common(num_columns)]
    has_sum = len(totals) != 1

    def row(name: str, counter: Counter[str]) -> list[object]:
        return [name, *(counter[column] for column in shown), *([counter.total()] if has_sum else [])]

    rows = [row(_shortened(name), counter) for name, counter in list(counts.items())[:IMAGES_SHOWN]]
    if len(counts) > 1:
        rows.append(row(f"all {len(counts):,} images", totals))
    return tabulate(rows, ["image", *shown, *(["all"] if has_sum else [])])


def _shortened(name: str) -> str:
    return name if len(name) <= NAME_SHOWN else "..." + name[-NAME_SHOWN + 3 :]


def _failures(result: PredictedImages) -> str:
    count = len(result.failures)
    if not result.counts:
        who = "the image could not" if count == 1 else f"none of the {count:,} images could"
        return f"{who} be read; nothing is written."
    return f"{counted(count, 'input')} could not be read (see above); the others are done."


def is_image_input(text: str) -> bool:
    """Whether an argument is an image, a folder or a pattern, and not weights, a config or a config key.

    Args:
        text: as typed.
    """
    path = Path(text).expanduser()
    if path.is_dir():
        return True
    is_other = names_weights(text) or text.endswith(CONFIG_SUFFIXES)
    if path.is_file() or text.lower().endswith(IMAGE_SUFFIXES):
        return not is_other
    return not is_other and not names_key(text)


def score_or_best(text: str) -> float | str:
    """The type of --threshold: a number from 0 to 1, "best" or a JSON file.

    Args:
        text: as typed.
    """
    return text if text == BEST or text.endswith(FILE_SUFFIX) else score(text)


def build_parser() -> CommandParser:
    """The command line."""
    parser = CommandParser(
        prog="mrcnn-zoo predict",
        description=__doc__,
        examples=(
            "photo.jpg --weights zoo://Quickstart/mask_rcnn_R_18_FPN_digits",
            "images/ --weights output/model_best.pth --output results --threshold 0.7",
            "images/ --weights output/model_best.pth --threshold best",
            "images/ --recursive --no-labels --weights output MODEL.DEVICE cpu TEST.DETECTIONS_PER_IMAGE 1000",
            "images/ --weights output --boxes boxes.json --output masks",
            "images/ --weights output --format labelme --output output/corrections",
            "'images/*.tif' --weights output/model_final.pth --config-file my.yaml --overwrite",
        ),
    )
    add_weights_option(parser)
    add_trust_option(parser)
    add_config_option(parser, text="default: the one in the weights")
    add_output_options(
        parser,
        text="folder of the results (default: predictions)",
        overwrite="also replace files in it that no earlier prediction has written; with --format: replace an earlier "
        "output without changed files",
    )
    parser.set_defaults(output="predictions")
    parser.add_argument(
        "--threshold",
        type=score_or_best,
        metavar="SCORE",
        help="minimum score (default: 0.5, with --boxes 0); best: the score of highest F1 of each class, from the "
        "checkpoint; FILE.json: the score_thresholds.json of an evaluation",
    )
    parser.add_argument(
        "--boxes",
        metavar="FILE",
        help="predict masks in these boxes: a COCO dataset, or a list of COCO results; boxes without a category_id "
        "get the predicted class",
    )
    text = "images per forward pass (default: 1); images of different sizes are padded, which changes scores slightly"
    parser.add_argument("--batch-size", type=whole_number(minimum=1), default=1, metavar="N", help=text)
    text = "write a dataset of this format into the output folder, instead of pictures and predictions.json: "
    text += f"{', '.join(sorted(ANNOTATION_FORMATS.names()))}; RESULTS.SIMPLIFY is the tolerance of its polygons"
    parser.add_argument("--format", metavar="NAME", help=text)
    text = "with --format: copy the image files, too (default: refer to them, where the format can)"
    parser.add_argument("--copy-images", action="store_true", help=text)
    parser.add_argument("--recursive", action="store_true", help="search folders recursively")
    parser.add_argument("--no-labels", action="store_true", help="draw objects without class and score")
    parser.add_argument(
        "--style",
        choices=STYLES,
        default=OBJECTS,
        help="the pictures: objects drawn on the image (default), or splash: objects in colour, all else grey",
    )
    add_overrides(
        parser,
        metavar="IMAGE | FOLDER | PATTERN | KEY VALUE",
        text="image files, folders, patterns such as 'x/*.png', and config keys",
    )
    return parser

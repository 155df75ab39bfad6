"""Detect objects in image files: draws them, and writes predictions.json (COCO format) and predictions.csv.

Video files and cameras give an MP4 with the objects drawn, and their numbers over the frames as CSV and JSON.

With --format NAME the output folder is a dataset of that format instead, with scores where it has a place for them:
open it in the tool of the format, correct it, and train on it, DATASETS.TRAIN FOLDER.
"""

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mrcnn_zoo.choices import (
    ANNOTATION_FORMAT_NAMES,
    BEST_THRESHOLD,
    DEFAULT_THRESHOLD,
    MIN_TILE,
    OBJECTS,
    PICTURE_STYLES,
    THRESHOLD_SUFFIX,
)
from mrcnn_zoo.cli.options import (
    add_config_option,
    add_output_options,
    add_overrides,
    add_trust_option,
    add_weights_option,
    given_weights,
    logging_lines,
    open_given_model,
    prepare_device,
)
from mrcnn_zoo.cli.parser import (
    CommandParser,
    is_image_input,
    not_negative,
    read_arguments,
    score,
    whole_number,
)
from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.config.values import typed_list
from mrcnn_zoo.errors import UserError, counted
from mrcnn_zoo.output_files import check_output_folder
from mrcnn_zoo.registries import ANNOTATION_FORMATS

if TYPE_CHECKING:
    from mrcnn_zoo.checkpoint import WeightsFile
    from mrcnn_zoo.data.annotations.contract import AnnotationFormat
    from mrcnn_zoo.data.given_boxes import BoxesOfImage
    from mrcnn_zoo.data.tiles import Tiling
    from mrcnn_zoo.evaluation.limits import DetectionTally
    from mrcnn_zoo.inference.image_detector import ImageDetector
    from mrcnn_zoo.inference.image_files import PredictedImages
    from mrcnn_zoo.inference.image_inputs import FoundImages
    from mrcnn_zoo.inference.thresholds import ScoreThreshold

SOME_IMAGES_FAILED = 1

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Predict on images and folders; returns 0, or 1 when some image could not be read.

    Args:
        argv: the arguments; None takes those of the process.
    """
    arguments = read_arguments(build_parser(), argv, is_input=is_image_input)

    from mrcnn_zoo.inference.image_files import PredictedImages
    from mrcnn_zoo.inference.image_inputs import find_images
    from mrcnn_zoo.inference.prediction_summary import failures_of
    from mrcnn_zoo.inference.video import split_videos

    with logging_lines():
        weights = given_weights(arguments)
        exclude = Path(arguments.output).expanduser()
        videos, images = split_videos(arguments.inputs)
        if videos:
            _check_videos(arguments, videos)
        result, summary = PredictedImages(), ""
        if images or not videos:
            found = find_images(images, recursive=arguments.recursive, exclude=exclude)
            write = _write_dataset if arguments.format else _write_predictions
            result, summary = write(arguments, weights, found)
        num_unread = _predict_videos(arguments, weights, videos) if videos else 0
    if result.counts:
        print(f"\n{summary}")
    if result.failures:
        print(f"error: {failures_of(result)}", file=sys.stderr)
    if num_unread:
        print(f"error: {counted(num_unread, 'video')} could not be read (see above).", file=sys.stderr)
    return SOME_IMAGES_FAILED if result.failures or num_unread else 0


def _write_predictions(
    arguments: argparse.Namespace, weights: str, found: "FoundImages"
) -> "tuple[PredictedImages, str]":
    """Pictures, predictions.json and predictions.csv, and the text about them."""
    from mrcnn_zoo.inference.image_files import check_predictions_folder, predict_images
    from mrcnn_zoo.inference.prediction_summary import summary_of

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
    return result, summary_of(result, output, threshold=_threshold(arguments)) if result.counts else ""


def _write_dataset(arguments: argparse.Namespace, weights: str, found: "FoundImages") -> "tuple[PredictedImages, str]":
    """A dataset of the format of `--format`, and the text about it."""
    from mrcnn_zoo.data.annotations.folders import check_dataset_folder, write_dataset
    from mrcnn_zoo.inference.image_files import predict_dataset
    from mrcnn_zoo.inference.prediction_summary import count_table, objects_of

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
        f"{objects_of(result, threshold=_threshold(arguments))}. Written: {output}, {kind.title}, "
        f"{'with the images' if copies else 'which refers to the image files'}.",
        *(f"  {note}" for note in (*dataset.notes, *lost)),
        f"To train on it, e.g. after corrections: DATASETS.TRAIN {typed_list([str(output)])}",
    ]
    return result, "\n".join(lines)


def _check_videos(arguments: argparse.Namespace, videos: Sequence[str]) -> Path:
    """The output folder; the options are checked before the images, whose prediction may take long."""
    from mrcnn_zoo.inference.video_files import check_video_outputs

    for option in ("format", "boxes"):
        if getattr(arguments, option):
            raise UserError(f"--{option} is for images; leave it out for {videos[0]}.")
    return check_video_outputs(videos, arguments.output, overwrite=arguments.overwrite)


def _predict_videos(arguments: argparse.Namespace, weights: str, videos: Sequence[str]) -> int:
    """Write the files of videos and print what they contain; returns the number of videos that cannot be read."""
    from mrcnn_zoo.inference.image_inputs import FoundImages
    from mrcnn_zoo.inference.video import is_camera
    from mrcnn_zoo.inference.video_files import predict_video, summary_of_video

    output = _check_videos(arguments, videos)
    opened = _open(arguments, weights, FoundImages())
    num_unread = 0
    for name in videos:
        try:
            result = predict_video(
                opened.detector,
                name,
                output,
                score_threshold=opened.threshold,
                batch_size=arguments.batch_size,
                has_labels=not arguments.no_labels,
                style=arguments.style,
                tally=opened.tally,
            )
        except UserError as error:
            num_unread += 1
            logger.error("%s", error)
            continue
        print(summary_of_video(result))
        if result.is_interrupted and not is_camera(name):
            raise KeyboardInterrupt
    return num_unread


@dataclass(frozen=True)
class _Opened:
    """A trained model that is ready for images."""

    detector: "ImageDetector"
    threshold: "ScoreThreshold"
    given: "Mapping[str, BoxesOfImage] | None"
    tally: "DetectionTally | None"
    tolerance: float  # RESULTS.SIMPLIFY


def _open(arguments: argparse.Namespace, weights: str, found: "FoundImages") -> _Opened:
    from mrcnn_zoo.data.annotations.loading import PAGES_ARE_IMAGES
    from mrcnn_zoo.data.given_boxes import read_given_boxes
    from mrcnn_zoo.evaluation.limits import build_detection_tally
    from mrcnn_zoo.inference.given_boxes import (
        box_source_of_files,
        boxes_of_files,
        build_given_box_detector,
        check_takes_boxes,
    )
    from mrcnn_zoo.inference.image_detector import build_image_detector
    from mrcnn_zoo.inference.image_files import check_predictions_folder
    from mrcnn_zoo.inference.thresholds import lowest, resolve_threshold
    from mrcnn_zoo.inference.tiles import check_predicts_tiles

    tiling = _tiling(arguments)
    boxes = None if arguments.boxes is None else read_given_boxes(arguments.boxes)
    given = None if boxes is None else boxes_of_files(boxes, found.files)

    def check(cfg: CfgNode, _: "WeightsFile") -> None:
        prepare_device(cfg)
        found.pages_are_images = cfg.INPUT.PAGES == PAGES_ARE_IMAGES
        if found.pages_are_images and not arguments.format:
            check_predictions_folder(arguments.output, found, overwrite=arguments.overwrite)
        if boxes is not None:
            check_takes_boxes(cfg, option="--boxes")
        if tiling is not None:
            check_predicts_tiles(cfg, has_given_boxes=boxes is not None, option="--tiles")

    images = [source for source, _ in found.sources()]
    model, cfg, trained = open_given_model(arguments, weights, check=check, takes_programs=True, images=images)
    if boxes is not None and given is not None:
        class_of_id = boxes.class_of_id(trained.class_names, trained.category_ids, images=given.values())
        model = build_given_box_detector(cfg, model, box_source_of_files(given, class_of_id), option="--boxes")
    threshold = resolve_threshold(_threshold(arguments) or 0.0, trained, option="--threshold")
    detector = build_image_detector(
        cfg, model, trained, score_threshold=lowest(threshold), option="--threshold", tiling=tiling
    )
    tally = build_detection_tally(cfg, min_score=lowest(threshold)) if given is None else None
    return _Opened(detector, threshold, given, tally, cfg.RESULTS.SIMPLIFY)


def _tiling(arguments: argparse.Namespace) -> "Tiling | None":
    from mrcnn_zoo.inference.tiles import tiling_of

    if arguments.tiles is not None:
        return tiling_of(arguments.tiles, arguments.tile_overlap, option="--tiles")
    if arguments.tile_overlap is not None:
        raise UserError("--tile-overlap is that of --tiles N, which is missing.")
    return None


def _threshold(arguments: argparse.Namespace) -> float | str | None:
    """The minimum score, "best" or a file of scores; None where all given boxes are shown."""
    is_default = arguments.threshold is None and arguments.boxes is None
    return DEFAULT_THRESHOLD if is_default else arguments.threshold


def score_or_best(text: str) -> float | str:
    """The type of --threshold: a number from 0 to 1, "best" or a JSON file.

    Args:
        text: as typed.
    """
    return text if text == BEST_THRESHOLD or text.endswith(THRESHOLD_SUFFIX) else score(text)


def build_parser() -> CommandParser:
    """The command line."""
    parser = CommandParser(
        prog="mrcnn-zoo predict",
        description=__doc__,
        examples=(
            "photo.jpg --weights zoo://Quickstart/mask_rcnn_R_18_FPN_digits",
            "images/ --weights output/model_best.pth --output results --threshold 0.7",
            "images/ --weights output/model_best.pth --threshold best",
            "--config-file my.yaml --input a.jpg b.jpg --output results --opts MODEL.WEIGHTS model.pth",
            "images/ --recursive --no-labels --weights output MODEL.DEVICE cpu TEST.DETECTIONS_PER_IMAGE 1000",
            "images/ --weights output --boxes boxes.json --output masks",
            "images/ --weights output --format labelme --output output/corrections",
            "video.mp4 --weights output/model_final.pth --output results",
            "slide.tif --weights output/model_final.pth --tiles 1024 --format geojson",
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
        "--confidence-threshold",
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
    text = "predict large images by overlapping tiles of N x N pixels, each as an image; an object in several tiles is "
    text += "found once, and limits such as TEST.DETECTIONS_PER_IMAGE hold per tile"
    parser.add_argument("--tiles", type=whole_number(minimum=MIN_TILE), metavar="N", help=text)
    text = "with --tiles: overlap of neighbours in pixels, or below 1 as a share of N (default: N / 8, at least 64 "
    text += "and at most N / 2); larger than most objects"
    parser.add_argument("--tile-overlap", type=not_negative, metavar="PIXELS", help=text)
    text = "write a dataset of this format into the output folder, instead of pictures and predictions.json: "
    text += f"{', '.join(ANNOTATION_FORMAT_NAMES)}; RESULTS.SIMPLIFY is the tolerance of its polygons"
    parser.add_argument("--format", metavar="NAME", help=text)
    text = "with --format: copy the image files, too (default: refer to them, where the format can)"
    parser.add_argument("--copy-images", action="store_true", help=text)
    text = "the same as IMAGE | FOLDER | PATTERN"
    parser.add_argument("--input", nargs="+", action="extend", default=[], metavar="IMAGE", help=text)
    text = "the same as KEY VALUE"
    parser.add_argument("--opts", nargs="*", action="extend", default=[], metavar="KEY VALUE", help=text)
    parser.add_argument("--recursive", action="store_true", help="search folders recursively")
    parser.add_argument("--no-labels", action="store_true", help="draw objects without class and score")
    parser.add_argument(
        "--style",
        choices=PICTURE_STYLES,
        default=OBJECTS,
        help="the pictures: objects drawn on the image (default), or splash: objects in colour, all else grey",
    )
    add_overrides(
        parser,
        metavar="IMAGE | FOLDER | PATTERN | VIDEO | KEY VALUE",
        text="image files, folders, patterns such as 'x/*.png', web addresses, video files, the number of a camera, "
        "and config keys",
    )
    return parser

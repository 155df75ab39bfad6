"""Write an HTML page on which a person steps through the stages of a model on one image, from input to result.

With ground truth, the page shows for each object the detection that finds it, or the stage at which it is lost and why.
"""

import argparse
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mrcnn_zoo.choices import DEFAULT_THRESHOLD
from mrcnn_zoo.cli.options import (
    add_config_option,
    add_output_options,
    add_overrides,
    add_trust_option,
    add_weights_option,
    given_weights,
    load_command_config,
    logging_lines,
    open_given_model,
    prepare_device,
)
from mrcnn_zoo.cli.parser import CommandParser, is_image_input, read_arguments, score, whole_number
from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.config.rules import class_count
from mrcnn_zoo.errors import UserError, counted
from mrcnn_zoo.output_files import check_output_file, refuse_to_replace, write_text

if TYPE_CHECKING:
    from mrcnn_zoo.data.records import Dataset, ImageRecord, ImageSource
    from mrcnn_zoo.inference.image_detector import ImageDetector

DEFAULT_OUTPUT = "xray.html"
SHOWN_IDS = 5

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Chosen:
    """An image, its annotations where it has some, and the classes of these."""

    source: "ImageSource"
    record: "ImageRecord | None" = None
    names: tuple[str, ...] = ()


def main(argv: Sequence[str] | None = None) -> int:
    """Write a page per image and print their paths; returns the exit status.

    Args:
        argv: the arguments; None takes those of the process.
    """
    arguments = read_arguments(build_parser(), argv, is_input=is_image_input)

    from mrcnn_zoo.inspection.xray.page import xray_image, xray_page

    with logging_lines():
        _check_inputs(arguments)
        output = check_output_file(arguments.output, option="--output")
        detector, cfg = _open(arguments)
        chosen = _chosen(arguments, cfg)
        if len(chosen[0].names) == class_count(cfg) and not detector.class_names:
            detector = replace(detector, class_names=chosen[0].names)
        for image, path in zip(chosen, _paths(output, chosen, overwrite=arguments.overwrite), strict=True):
            content = xray_page(
                xray_image(
                    detector,
                    image.source,
                    channel_order=cfg.INPUT.FORMAT,
                    record=image.record,
                    names=image.names,
                    max_detections=cfg.TEST.DETECTIONS_PER_IMAGE,
                ),
                start_score=arguments.threshold,
                caption=_caption(arguments),
            )
            print(f"{write_text(path, content)} ({len(content) / 1e6:.1f} MB)")
    return 0


def _check_inputs(arguments: argparse.Namespace) -> None:
    if arguments.dataset and (arguments.inputs or arguments.annotations):
        raise UserError("--dataset has its own images and annotations: leave the image files and --annotations out.")
    if arguments.image_id and not arguments.dataset:
        raise UserError("--image-id chooses an image of --dataset: give it, too.")
    if not arguments.inputs and not arguments.dataset:
        raise UserError("no image is given: name an image file, or choose one with --dataset NAME --image-id N.")


def _open(arguments: argparse.Namespace) -> "tuple[ImageDetector, CfgNode]":
    from mrcnn_zoo.inference.image_detector import build_image_detector

    weights = given_weights(arguments)
    if not weights and arguments.config_file is not None:
        cfg = load_command_config(arguments)
        if not cfg.MODEL.WEIGHTS:
            return _untrained(cfg), cfg
    model, cfg, trained = open_given_model(arguments, weights)
    return build_image_detector(cfg, model, trained, score_threshold=1.0), cfg


def _untrained(cfg: CfgNode) -> "ImageDetector":
    import torch

    from mrcnn_zoo.inference.image_detector import ImageDetector
    from mrcnn_zoo.inference.tta import build_augmented_detector, build_prediction_mapper
    from mrcnn_zoo.modeling import build_model

    logger.warning("MODEL.WEIGHTS is empty: the weights of the model are random, and its results mean nothing")
    prepare_device(cfg)
    torch.manual_seed(max(cfg.SEED, 0))
    model = build_augmented_detector(cfg, build_model(cfg).eval())
    return ImageDetector(model, build_prediction_mapper(cfg, model), class_names=(), category_ids=())


def _chosen(arguments: argparse.Namespace, cfg: CfgNode) -> list[Chosen]:
    from mrcnn_zoo.data import load_dataset
    from mrcnn_zoo.data.annotations.loading import PAGES_ARE_IMAGES
    from mrcnn_zoo.inference.image_inputs import find_images

    if arguments.dataset:
        dataset = load_dataset(cfg, arguments.dataset)
        records = [_record_with_id(dataset, number) for number in arguments.image_id or [None]]
        return [Chosen(record.source, record, dataset.class_names) for record in records]
    found = find_images(arguments.inputs)
    for problem in found.problems:
        logger.warning("%s", problem)
    found.pages_are_images = cfg.INPUT.PAGES == PAGES_ARE_IMAGES
    sources = [source for source, _ in found.sources()]
    if arguments.annotations is None:
        return [Chosen(source) for source in sources]
    dataset = load_dataset(cfg, arguments.annotations)
    return [Chosen(source, _record_of(dataset, source), dataset.class_names) for source in sources]


def _record_with_id(dataset: "Dataset", image_id: int | None) -> "ImageRecord":
    ids = [record.image_id for record in dataset.records]
    if image_id in ids:
        return dataset.records[ids.index(image_id)]
    known = ", ".join(map(str, ids[:SHOWN_IDS])) + (", ..." if len(ids) > SHOWN_IDS else "")
    wrong = "choose an image with --image-id" if image_id is None else f"there is no image with --image-id {image_id}"
    raise UserError(f"{dataset.name}: {wrong}; its {counted(len(ids), 'image')} have the ids {known}")


def _record_of(dataset: "Dataset", source: "ImageSource") -> "ImageRecord":
    """The record of an image file, by path, or else by an unambiguous name."""
    from mrcnn_zoo.data.images.reading import FileImage

    path = Path(source.name).expanduser().resolve()
    files = [(Path(record.source.name), record) for record in dataset.records if isinstance(record.source, FileImage)]
    same = [record for file, record in files if file.resolve() == path]
    same = same or [record for file, record in files if file.name == path.name]
    if len(same) == 1:
        return same[0]
    reason = f"{len(same)} images have this name" if same else f"none of its {len(files):,} image files has this name"
    raise UserError(f"--annotations {dataset.name}: no annotations of {source.name} are found: {reason}.")


def _paths(output: Path, chosen: Sequence[Chosen], *, overwrite: bool) -> list[Path]:
    """The output file, or with several images one per image beside it, with distinct names."""
    from mrcnn_zoo.inspection.html_page import is_own_page

    paths = [output]
    if len(chosen) > 1:
        stems = [Path(image.source.name.split(" (")[0]).stem for image in chosen]
        names = [f"-{stem}" if stems.count(stem) == 1 else f"-{stem}-{n}" for n, stem in enumerate(stems, start=1)]
        paths = [output.with_name(f"{output.stem}{name}{output.suffix}") for name in names]
    if not overwrite:
        refuse_to_replace((path for path in paths if path.exists() and not is_own_page(path)), option="--output")
    return paths


def _caption(arguments: argparse.Namespace) -> str:
    """The model, without the folders of this machine."""
    weights = arguments.weights or "random weights"
    return weights if "://" in weights else Path(weights).name


def build_parser() -> CommandParser:
    """The command line."""
    parser = CommandParser(
        prog="mrcnn-zoo xray",
        description=__doc__,
        examples=(
            "photo.jpg --weights zoo://Quickstart/mask_rcnn_R_18_FPN_digits",
            "cell.png --annotations data/nuclei --weights output/model_best.pth --output cell.html",
            "--dataset digits_val --image-id 5 --weights zoo://Quickstart/mask_rcnn_R_18_FPN_digits",
            "images/a.jpg images/b.jpg --weights output INPUT.MIN_SIZE_TEST 1000",
        ),
    )
    add_weights_option(parser)
    add_trust_option(parser)
    add_config_option(parser, text="default: the one in the weights")
    text = f"the page (default: {DEFAULT_OUTPUT}); of several images one page per image, with its name added"
    replaced = "also replace a file that is no page of mrcnn_zoo"
    add_output_options(parser, text=text, overwrite=replaced, metavar="FILE.html")
    parser.set_defaults(output=DEFAULT_OUTPUT)
    text = "dataset with the ground truth of the images: a file or folder of any format, or a name"
    parser.add_argument("--annotations", metavar="DATASET", help=text)
    text = "take an image of this dataset with its ground truth, instead of a file"
    parser.add_argument("--dataset", metavar="DATASET", help=text)
    text = "id of the image in --dataset; may be repeated"
    parser.add_argument("--image-id", type=whole_number(minimum=0), action="append", metavar="N", help=text)
    text = f"least score of detections that the page shows at first (default: {DEFAULT_THRESHOLD:g})"
    parser.add_argument("--threshold", type=score, default=DEFAULT_THRESHOLD, metavar="SCORE", help=text)
    add_overrides(
        parser, metavar="IMAGE | FOLDER | PATTERN | KEY VALUE", text="image files, folders, patterns, and config keys"
    )
    return parser

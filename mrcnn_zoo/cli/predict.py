"""`mrcnn-zoo predict`: draw and save the instances in image files."""

import argparse
import logging
import sys
from collections.abc import Sequence

from mrcnn_zoo.config.class_count import class_count
from mrcnn_zoo.data.mapper import build_test_mapper
from mrcnn_zoo.evaluation.class_mapping import predicts_classes
from mrcnn_zoo.evaluation.trained import open_trained
from mrcnn_zoo.inspection.pictures import OBJECT
from mrcnn_zoo.inspection.prediction import predict_files
from mrcnn_zoo.modeling import resolve_device
from mrcnn_zoo.ops.allocator import keep_freed_memory

SOME_IMAGES_FAILED = 1


def main(argv: Sequence[str] | None = None) -> int:
    """Predict on images and folders; returns 0, or 1 when some image could not be read."""
    arguments = _parser().parse_intermixed_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    model, cfg, trained = open_trained(arguments.weights, config=arguments.config_file, overrides=arguments.set)
    if resolve_device(cfg.MODEL.DEVICE).type == "cpu":
        keep_freed_memory()
    class_names, category_ids = trained.class_names, trained.category_ids
    if not predicts_classes(model):
        class_names, category_ids = (OBJECT,), (1,)
    failures = predict_files(
        model,
        arguments.images,
        arguments.output,
        mapper=build_test_mapper(cfg),
        class_names=class_names or [str(index) for index in range(class_count(cfg) or 1)],
        category_ids=category_ids,
        score_threshold=arguments.threshold,
    )
    if failures:
        print(f"{len(failures)} images could not be read; the others are in {arguments.output}.", file=sys.stderr)
    return SOME_IMAGES_FAILED if failures else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mrcnn-zoo predict", description=__doc__)
    parser.add_argument("images", nargs="+", metavar="IMAGE|FOLDER", help="image files, and folders of them")
    parser.add_argument("--weights", default="", metavar="FILE", help="checkpoint; MODEL.WEIGHTS without it")
    parser.add_argument("--config-file", "--config", metavar="X.yaml", help="default: the config in the checkpoint")
    parser.add_argument("--output", "--output-dir", default="predictions", metavar="DIR", help="default: predictions")
    parser.add_argument("--threshold", type=_share, default=0.5, metavar="SCORE", help="least score, from 0 to 1")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a config key, MODEL.DEVICE=cpu for instance"
    )
    return parser


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value

"""`mrcnn-zoo evaluate`: the COCO tables of a checkpoint on DATASETS.TEST."""

import argparse
import logging
import sys
from collections.abc import Sequence

from mrcnn_zoo.evaluation import load_trained
from mrcnn_zoo.inspection.evaluation_pictures import evaluate_with_pictures
from mrcnn_zoo.modeling import resolve_device
from mrcnn_zoo.ops.allocator import keep_freed_memory


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate a checkpoint, print the tables and the files that were written."""
    arguments = _parser().parse_intermixed_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    model, cfg, class_names = load_trained(
        arguments.weights, config=arguments.config_file, overrides=arguments.overrides
    )
    if resolve_device(cfg.MODEL.DEVICE).type == "cpu":
        keep_freed_memory()
    evaluate_with_pictures(model, cfg, arguments.output_dir or cfg.OUTPUT_DIR, class_names=class_names)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mrcnn-zoo evaluate", description=__doc__)
    parser.add_argument("--weights", default="", metavar="FILE", help="checkpoint; MODEL.WEIGHTS without it")
    parser.add_argument("--config-file", "--config", metavar="X.yaml", help="default: the config in the checkpoint")
    parser.add_argument("--output-dir", default="", metavar="DIR", help="default: OUTPUT_DIR of the config")
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE | KEY=VALUE", help="config keys")
    return parser

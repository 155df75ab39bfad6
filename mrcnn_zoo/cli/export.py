"""Write a trained detector as one program of fixed shapes, NMS inside: an ONNX model or a program of torch.export.

`Predictor`, `mrcnn-zoo predict` and `mrcnn-zoo evaluate` read the file as weights. Class names, config, resizing and
pixel statistics are inside.
"""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mrcnn_zoo.choices import PROGRAM_FORMATS
from mrcnn_zoo.cli.options import (
    add_config_option,
    add_output_options,
    add_overrides,
    add_trust_option,
    add_weights_option,
    given_weights,
    logging_lines,
)
from mrcnn_zoo.cli.parser import CommandParser, read_arguments, whole_number
from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.output_files import check_output_file

if TYPE_CHECKING:
    from mrcnn_zoo.checkpoint import WeightsFile
    from mrcnn_zoo.inference.trained import TrainedFile
    from mrcnn_zoo.structures import ImageSize

WIDEST = 5 / 3  # width over height of the default size, that of 800 x 1333

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Export a model and print the file; returns the exit status.

    Args:
        argv: the arguments; None takes those of the process.
    """
    arguments = read_arguments(build_parser(), argv)

    from mrcnn_zoo.export.programs import is_program
    from mrcnn_zoo.export.writing import check_exportable, padded_size, write_program
    from mrcnn_zoo.inference.trained import open_trained

    with logging_lines():
        path, to = _target(arguments)
        weights = given_weights(arguments)
        if is_program(weights):
            raise UserError(f"{weights} is exported already. Export the checkpoint that it was made from.")
        model, cfg, trained = open_trained(
            weights,
            config=arguments.config_file,
            overrides=arguments.overrides,
            trust=arguments.trust,
            check=_check,
        )
        check_exportable(model)
        size = padded_size(arguments.size or default_size(cfg), model)
        write_program(model.cpu(), path, to=to, size=size, meta=_meta(cfg, trained))
    print(
        f"written: {path} ({path.stat().st_size / 1e6:.1f} MB), for one image of up to {size[0]} x {size[1]} pixels "
        "(height x width); larger ones are scaled down."
    )
    return 0


def _target(arguments: argparse.Namespace) -> tuple[Path, str]:
    """The file of `--output` and its format."""
    if arguments.output is None:
        raise UserError("the file to write is missing: --output model.onnx or --output model.pt2.")
    path = check_output_file(arguments.output, option="--output", overwrite=arguments.overwrite)
    suffix = path.suffix.lower().removeprefix(".")
    to = arguments.to or suffix
    if to != suffix or to not in PROGRAM_FORMATS:
        expected = f".{to}" if to in PROGRAM_FORMATS else ".onnx or .pt2"
        raise UserError(f"--output {path} must end in {expected}, from which the file is recognised later.")
    return path, to


def _check(cfg: CfgNode, _: "WeightsFile") -> None:
    from mrcnn_zoo.modeling.construction import check_device

    check_device(cfg.MODEL.DEVICE)
    if cfg.TEST.AUG.ENABLED:
        raise UserError("TEST.AUG.ENABLED: an exported model predicts one view of an image. Set it to False.")
    for key, plain in (("MODEL.OPTIMIZE", "none"), ("MODEL.DTYPE", "float32")):
        if cfg.value_of(key) != plain:
            raise UserError(f"{key} = {cfg.value_of(key)}: the plain float32 model is exported. Set {key} {plain}.")


def default_size(cfg: CfgNode) -> "ImageSize":
    """A landscape image with the shortest side of INPUT.MIN_SIZE_TEST, up to 5 : 3 and INPUT.MAX_SIZE_TEST.

    Args:
        cfg: of the model.

    Raises:
        UserError: INPUT.MIN_SIZE_TEST is 0, so that any size is possible.
    """
    shortest, longest = cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST
    if shortest == 0:
        raise UserError("INPUT.MIN_SIZE_TEST is 0: images keep their size. Give the largest one with --size H W.")
    shortest = min(shortest, longest)
    return shortest, min(longest, round(shortest * WIDEST))


def _meta(cfg: CfgNode, trained: "TrainedFile") -> dict[str, Any]:
    from mrcnn_zoo.inference.thresholds import STORED

    meta: dict[str, Any] = {
        "config": cfg.dump(),
        "class_names": list(trained.class_names),
        "category_ids": list(trained.category_ids),
        "pixel_mean": list(cfg.MODEL.PIXEL_MEAN),
        "pixel_std": list(cfg.MODEL.PIXEL_STD),
        "channels": cfg.INPUT.FORMAT,
    }
    stored = trained.file.meta
    return meta | {key: stored[key] for key in (STORED, "iteration") if isinstance(stored.get(key), dict | int)}


def build_parser() -> CommandParser:
    """The command line."""
    parser = CommandParser(
        prog="mrcnn-zoo export",
        description=__doc__,
        examples=(
            "--weights output/model_best.pth --output model.onnx",
            "--weights zoo://Quickstart/mask_rcnn_R_18_FPN_digits --to pt2 --output digits.pt2",
            "--weights output --output portrait.onnx --size 1344 800",
        ),
    )
    add_weights_option(parser)
    add_trust_option(parser)
    add_config_option(parser, text="default: the one in the weights")
    text = "file to write, .onnx or .pt2"
    add_output_options(parser, text=text, overwrite="replace the file where it exists", metavar="FILE")
    parser.add_argument("--to", choices=PROGRAM_FORMATS, help="format (default: the suffix of --output)")
    parser.add_argument(
        "--size",
        nargs=2,
        type=whole_number(minimum=1),
        metavar=("H", "W"),
        help="height and width of the input, rounded up to what the backbone divides; images that do not fit are "
        "scaled down (default: landscape, from INPUT.MIN_SIZE_TEST and INPUT.MAX_SIZE_TEST)",
    )
    add_overrides(parser)
    return parser

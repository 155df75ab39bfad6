"""Convert a detector of another project to this one, or from this one to Detectron2 or torchvision.

The config is written beside the weights, with the suffix .yaml.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mrcnn_zoo.choices import CHECKPOINT_KINDS, OURS
from mrcnn_zoo.cli.options import add_config_option, add_output_options, add_overrides, add_trust_option, logging_lines
from mrcnn_zoo.cli.parser import CommandParser, not_negative, read_arguments
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.output_files import check_output_file

if TYPE_CHECKING:
    from mrcnn_zoo.interop.conversion.convert import Converted


def main(argv: Sequence[str] | None = None) -> int:
    """Convert, print the status of each weight, and compare with the source on request.

    Args:
        argv: the arguments; None takes those of the process.
    """
    arguments = read_arguments(build_parser(), argv)

    from mrcnn_zoo.interop.conversion.convert import convert_checkpoint
    from mrcnn_zoo.interop.conversion.verify import open_image, verify

    with logging_lines():
        target = _target(arguments)
        if arguments.verify:
            open_image(arguments.verify)  # refuses a missing file before the conversion
        converted = convert_checkpoint(
            arguments.source,
            target,
            kind=arguments.to,
            config=arguments.config_file,
            overrides=arguments.overrides,
            half=arguments.half,
            trust=arguments.trust,
            meta=_meta(arguments),
        )
        _describe(converted)
        if arguments.verify:
            for line in verify(converted, arguments.verify):
                print(line)
    return 0


def _target(arguments: argparse.Namespace) -> Path:
    """DST or `--output`; refuses existing weights or config without `--overwrite`."""
    from mrcnn_zoo.interop.conversion.convert import check_target

    if arguments.output is None and arguments.target is None:
        raise UserError(f"the file to write is missing: mrcnn-zoo convert-checkpoint {arguments.source} DST.pth")
    option, target = ("DST", arguments.target) if arguments.output is None else ("--output", arguments.output)
    if arguments.output is not None and arguments.target is not None:  # DST is the first config key then
        arguments.overrides = [arguments.target, *arguments.overrides]
    check_target(Path(target), arguments.to)
    for path in (Path(target), Path(target).with_suffix(".yaml")):
        check_output_file(path, option=option, overwrite=arguments.overwrite)
    return Path(target).expanduser()


def _meta(arguments: argparse.Namespace) -> dict[str, Any]:
    from mrcnn_zoo.interop.mmdetection.config import SETTINGS_KEY, read_config_file
    from mrcnn_zoo.interop.torchvision.detectors import FROZEN_EPS_KEY

    meta: dict[str, Any] = {}
    if arguments.frozen_bn_eps is not None:
        meta[FROZEN_EPS_KEY] = arguments.frozen_bn_eps
    if arguments.source_config:
        meta[SETTINGS_KEY] = read_config_file(Path(arguments.source_config))
    return meta


def _describe(converted: "Converted") -> None:
    print(converted.report)
    unused = converted.report.skipped
    print(f"unused in {converted.report.source}: {', '.join(unused) if unused else 'nothing'}")
    for note in converted.notes:
        print(f"note: {note}")
    print(f"written: {converted.target}, with its config in {converted.target.with_suffix('.yaml')}")


def build_parser() -> CommandParser:
    """The command line."""
    parser = CommandParser(
        prog="mrcnn-zoo convert-checkpoint",
        description=__doc__,
        examples=(
            "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth mask_rcnn.safetensors --verify street.jpg",
            "output/model_final.pth small.safetensors --half",
            "output/model_final.pth for_torchvision.pth --to torchvision --overwrite",
        ),
    )
    parser.add_argument("source", metavar="SRC", help="weights: a path, a URL, detectron2://... or zoo://NAME")
    parser.add_argument("target", metavar="DST", nargs="?", help="file to write, .pth or .safetensors")
    parser.add_argument("--to", choices=CHECKPOINT_KINDS, default=OURS, help="project that reads DST (default: ours)")
    add_output_options(
        parser, text="same as DST", overwrite="replace DST and its .yaml where they exist", metavar="DST"
    )
    add_config_option(parser, text="of SRC (default: the one stored in it, or derived from it)")
    parser.add_argument(
        "--source-config",
        metavar="FILE",
        help="MMDetection's config of SRC, .py or .json, which is parsed, not run (default: the one in SRC)",
    )
    parser.add_argument("--half", action="store_true", help="write the weights in half precision")
    parser.add_argument(
        "--verify", metavar="IMAGE", help="print the difference between the predictions of SRC and DST on this image"
    )
    parser.add_argument(
        "--frozen-bn-eps",
        type=not_negative,
        metavar="EPS",
        help="eps of torchvision's frozen batch norms (default: 0 for its published files of version 1, else 1e-5)",
    )
    add_trust_option(parser)
    add_overrides(parser)
    return parser

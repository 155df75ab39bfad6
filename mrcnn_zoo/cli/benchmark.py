"""Measure time and memory of inference, training, data loading and evaluation."""

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mrcnn_zoo.cli.options import (
    add_config_option,
    add_output_options,
    add_overrides,
    load_command_config,
    logging_lines,
)
from mrcnn_zoo.cli.parser import CommandParser, read_arguments, whole_number
from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.config.trust import code_modules
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.output_files import check_output_file

if TYPE_CHECKING:
    from mrcnn_zoo.benchmark.report import BenchmarkReport

DEFAULT_CONFIG = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"
MODEL_TASKS = ("inference", "train")
COMPARED_TASKS = (*MODEL_TASKS, "data")  # that have --against
DEFAULT_BATCH_SIZE = {"inference": 1, "train": 2, "data": 2}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the report and write it as JSON on request; returns the exit status.

    Args:
        argv: the arguments; None takes those of the process.
    """
    arguments = read_arguments(build_parser(), argv)
    if arguments.against and arguments.task not in COMPARED_TASKS:
        raise UserError(f"--against applies to --task {', '.join(COMPARED_TASKS)}, not to {arguments.task}.")
    if (arguments.variant or arguments.separate) and arguments.task not in MODEL_TASKS:
        raise UserError(f"--separate and --variant apply to --task {' and '.join(MODEL_TASKS)}, not {arguments.task}.")
    with logging_lines(sys.stderr):
        output = arguments.output
        if output is not None:
            output = check_output_file(output, option="--output", overwrite=arguments.overwrite)
        arguments.config_file = arguments.config_file or DEFAULT_CONFIG
        cfg = load_command_config(arguments, _implied_overrides(arguments))
        report = _measure(arguments, cfg)
    print(report.text())
    if output is not None:
        report.write(output)
        print(f"written: {output}")
    return 0


def _measure(arguments: argparse.Namespace, cfg: CfgNode) -> "BenchmarkReport":
    from mrcnn_zoo.benchmark.data import benchmark_evaluation, benchmark_loading
    from mrcnn_zoo.benchmark.loading import LoadingPlan, benchmark_loading_against_torchvision
    from mrcnn_zoo.benchmark.models import ModelPlan, benchmark_models
    from mrcnn_zoo.benchmark.separate import benchmark_in_processes

    common: dict[str, Any] = {
        "config_text": cfg.dump(),
        "trust": code_modules(cfg),
        "images": arguments.images,
        "num_batches": arguments.num_batches,
        "batch_size": arguments.batch_size or DEFAULT_BATCH_SIZE.get(arguments.task),
        "repeats": arguments.repeats,
        "keeps_memory": arguments.malloc == "keep",
        "num_threads": arguments.threads,
    }
    if arguments.task == "data" and arguments.against:
        return benchmark_loading_against_torchvision(LoadingPlan(**common))
    if arguments.task == "data":
        return benchmark_loading(cfg, arguments.images, num_batches=arguments.num_batches, repeats=arguments.repeats)
    if arguments.task == "eval":
        return benchmark_evaluation(
            cfg, arguments.images, detections_per_image=arguments.detections, repeats=arguments.repeats
        )
    _check_inference(cfg)
    plan = ModelPlan(
        **common,
        task=arguments.task,
        is_against_torchvision=arguments.against == "torchvision",
        mask_form=arguments.masks,
        measures_memory=not arguments.no_memory,
    )
    if arguments.separate or arguments.variant:
        return benchmark_in_processes(plan, [variant.split() for variant in arguments.variant])
    return benchmark_models(plan)


def _check_inference(cfg: CfgNode) -> None:
    if cfg.TEST.AUG.ENABLED:
        raise UserError("the benchmark measures one view per image: set TEST.AUG.ENABLED False.")
    if cfg.EVAL.GIVEN_BOXES:
        raise UserError("the benchmark measures the model's own boxes: set EVAL.GIVEN_BOXES ''.")


def _implied_overrides(arguments: argparse.Namespace) -> list[Any]:
    overrides: list[Any] = []
    if arguments.against == "torchvision":
        overrides += ["MODEL.RESNETS.STRIDE_IN_1X1", False]  # where torchvision's ResNets have it
    if arguments.image_size:
        shorter, longer = arguments.image_size
        for split, smallest in (("TRAIN", [shorter]), ("TEST", shorter)):
            overrides += [f"INPUT.MIN_SIZE_{split}", smallest, f"INPUT.MAX_SIZE_{split}", longer]
    return overrides


def build_parser() -> CommandParser:
    """The command line."""
    parser = CommandParser(
        prog="mrcnn-zoo benchmark",
        description=__doc__,
        examples=(
            "--task inference --images photos/ --image-size 400 600",
            "--task train --against torchvision --num-batches 2 --output train.json",
            "--task inference --against torchvision --variant MODEL.OPTIMIZE=fused --variant MODEL.OPTIMIZE=compiled",
            "--task data --against torchvision --images coco_mini/train2017 --num-batches 30 --image-size 800 1333",
            "--task data --config-file Quickstart/mask_rcnn_R_18_FPN_digits.yaml",
            "--task eval --config-file Quickstart/mask_rcnn_R_18_FPN_digits.yaml --detections 50 --repeats 1",
        ),
    )
    add, count = parser.add_argument, whole_number(minimum=1)
    add("--task", required=True, choices=(*MODEL_TASKS, "data", "eval"), help="what is measured")
    add_config_option(parser, text=f"default: {DEFAULT_CONFIG}")
    add("--against", choices=("torchvision",), help="also measure it, interleaved with ours (not for eval)")
    add("--separate", action="store_true", help="each model in a process of its own (inference, train)")
    text = "also measure ours with these keys, as 'KEY=VALUE KEY=VALUE'; repeatable; implies --separate"
    add("--variant", action="append", default=[], metavar="KEYS", help=text)
    add(
        "--images",
        default="",
        metavar="NAME|FOLDER",
        help="dataset, folder with annotations or, for inference, any image folder",
    )
    add("--image-size", type=count, nargs=2, metavar=("SHORTER", "LONGER"), help="sets INPUT.MIN_SIZE_* and MAX_SIZE_*")
    add("--batch-size", type=count, metavar="N", help="images per batch (default: 1 for inference, else 2)")
    add("--num-batches", type=count, default=4, metavar="N", help="different batches per round (default: 4)")
    add("--repeats", type=count, default=5, metavar="N", help="measured rounds, after one warm-up round (default: 5)")
    add("--masks", choices=("bitmap", "rle"), default="bitmap", help="form of the predicted masks (default: bitmap)")
    add("--malloc", choices=("keep", "default"), default="keep", help="keep: glibc keeps freed memory (default)")
    add("--threads", type=count, default=0, metavar="N", help="CPU threads (default: torch's; 1 for data)")
    add("--no-memory", action="store_true", help="skip the peak memory, which is measured in separate processes")
    add(
        "--detections",
        type=count,
        default=100,
        metavar="N",
        help="per image, for --task eval (default: 100)",
    )
    add_output_options(
        parser,
        text="also write the report to this file",
        overwrite="replace FILE.json where it exists",
        metavar="FILE.json",
    )
    add_overrides(parser)
    return parser

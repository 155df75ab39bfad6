"""Train a model from a config file, on one or several processes, or only evaluate it."""

import argparse
import os
import sys
from collections.abc import Sequence

from mrcnn_zoo.cli.main import USAGE_ERROR
from mrcnn_zoo.cli.options import (
    CommandParser,
    add_config_option,
    add_output_options,
    add_overrides,
    prepare_device,
    read_arguments,
    require_config,
    whole_number,
)
from mrcnn_zoo.config import CfgNode, load_config
from mrcnn_zoo.distributed.launch import FAILED, ProcessLayout, launch
from mrcnn_zoo.distributed.processes import rank
from mrcnn_zoo.errors import NonFiniteLossError, UserError
from mrcnn_zoo.modeling import resolve_device
from mrcnn_zoo.progress import fitted
from mrcnn_zoo.training import run
from mrcnn_zoo.training.stopping import TrainingInterrupted
from mrcnn_zoo.training.trainer import OutOfDeviceMemoryError


def build_parser() -> CommandParser:
    """The command line, with the options that Detectron2's users type."""
    parser = CommandParser(
        prog="mrcnn-zoo train",
        description=__doc__,
        examples=(
            "--config-file Quickstart/mask_rcnn_R_18_FPN_digits.yaml",
            "--config-file X.yaml --num-gpus 8 SOLVER.BASE_LR 0.02 OUTPUT_DIR output/x",
            "--config-file X.yaml --resume OUTPUT_DIR=output/x",
            "--config-file X.yaml --eval-only MODEL.WEIGHTS output/x/model_final.pth",
        ),
        more="torchrun --nproc-per-node 8 tools/train_net.py --config-file X.yaml",
    )
    add_config_option(parser, text="YAML file, or the name of a packaged config")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in OUTPUT_DIR, if any")
    parser.add_argument("--eval-only", action="store_true", help="evaluate MODEL.WEIGHTS, or the last checkpoint")
    add_output_options(
        parser,
        text="the same as OUTPUT_DIR DIR",
        overwrite="start afresh in OUTPUT_DIR, removing the checkpoints that it holds",
    )
    parser.add_argument(
        "--num-gpus",
        type=whole_number(minimum=1),
        default=1,
        metavar="N",
        help="processes on this machine; without GPU on its CPU",
    )
    parser.add_argument(
        "--num-machines", type=whole_number(minimum=1), default=1, metavar="N", help="machines that train together"
    )
    parser.add_argument(
        "--machine-rank", type=whole_number(minimum=0), default=0, metavar="I", help="number of this machine, from 0"
    )
    parser.add_argument(
        "--dist-url", default="auto", metavar="URL", help="of machine 0, where all meet, e.g. tcp://10.0.0.1:29500"
    )
    parser.add_argument(
        "--max-restarts",
        type=whole_number(minimum=0),
        default=0,
        metavar="N",
        help="how often all processes restart from the last checkpoint after one failed; torchrun has its own",
    )
    add_overrides(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = build_parser()
    options = read_arguments(parser, argv)
    require_config(parser, options)
    try:
        return _start(options)
    except NonFiniteLossError as error:
        print(fitted(f"error: {error}", sys.stderr), file=sys.stderr)
        return FAILED
    except UserError as error:
        # Under torchrun every process finds the same mistake, and the first of each machine prints it. Only memory may
        # run out in one process alone.
        if _is_first_on_machine() or isinstance(error, OutOfDeviceMemoryError):
            raise
        return USAGE_ERROR


def _start(options: argparse.Namespace) -> int:
    if options.output is not None:
        options.overrides += ["OUTPUT_DIR", options.output]
    cfg = load_config(options.config_file, options.overrides)  # a mistake shows before any process is started
    layout = ProcessLayout(
        processes_per_machine=options.num_gpus,
        num_machines=options.num_machines,
        machine_rank=options.machine_rank,
        url=options.dist_url,
        device=str(resolve_device(cfg.MODEL.DEVICE)),
        max_restarts=options.max_restarts,
    )
    return launch(train, [cfg, options], layout)


def _is_first_on_machine() -> bool:
    return os.environ.get("LOCAL_RANK", os.environ.get("RANK", "0")) == "0"


def train(cfg: CfgNode, options: argparse.Namespace) -> int:
    """What each process does."""
    prepare_device(cfg)
    try:
        run(cfg, resume=options.resume, eval_only=options.eval_only, overwrite=options.overwrite)
    except TrainingInterrupted as interruption:
        if rank() == 0:
            print(fitted(str(interruption), sys.stderr), file=sys.stderr)
        return interruption.exit_status
    return 0

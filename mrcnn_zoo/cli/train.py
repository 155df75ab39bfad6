"""Train a model from a config file, on one or several processes, or only evaluate it.

Torch is imported by the functions that use it: the help and mistakes of the command line do not wait for it.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from mrcnn_zoo.cli.main import USAGE_ERROR
from mrcnn_zoo.cli.options import (
    add_config_option,
    add_output_options,
    add_overrides,
    add_weights_option,
    prepare_device,
    require_config,
)
from mrcnn_zoo.cli.parser import CommandParser, read_arguments, whole_number
from mrcnn_zoo.config import CfgNode, load_config
from mrcnn_zoo.errors import NonFiniteLossError, UserError
from mrcnn_zoo.progress import fitted


def build_parser() -> CommandParser:
    """The command line, with Detectron2's names of options."""
    parser = CommandParser(
        prog="mrcnn-zoo train",
        description="Train a model from a config file, on one or several processes, or only evaluate it.",
        examples=(
            "--config-file Quickstart/mask_rcnn_R_18_FPN_digits.yaml",
            "--config-file X.yaml --num-gpus 8 SOLVER.BASE_LR 0.02 OUTPUT_DIR output/x",
            "--config-file X.yaml --resume OUTPUT_DIR=output/x",
            "--config-file X.yaml --eval-only MODEL.WEIGHTS output/x/model_final.pth",
        ),
        more="torchrun --nproc-per-node 8 tools/train_net.py --config-file X.yaml",
    )
    add_config_option(parser)
    add_weights_option(parser)
    parser.add_argument("--resume", action="store_true", help="continue from the last checkpoint in OUTPUT_DIR, if any")
    parser.add_argument(
        "--eval-only", action="store_true", help="evaluate MODEL.WEIGHTS, or with --resume the last checkpoint"
    )
    add_output_options(
        parser,
        text="folder of the run (default: OUTPUT_DIR of the config)",
        overwrite="remove the checkpoints of an earlier run in that folder, and start again",
    )
    parser.add_argument(
        "--num-gpus",
        type=whole_number(minimum=1),
        default=1,
        metavar="N",
        help="processes on this machine, one per GPU, or on its CPU (default: 1)",
    )
    parser.add_argument(
        "--num-machines", type=whole_number(minimum=1), default=1, metavar="N", help="number of machines (default: 1)"
    )
    parser.add_argument(
        "--machine-rank", type=whole_number(minimum=0), default=0, metavar="I", help="index of this machine, from 0"
    )
    parser.add_argument(
        "--dist-url",
        default="auto",
        metavar="URL",
        help="address of machine 0 for the rendezvous, e.g. tcp://10.0.0.1:29500",
    )
    parser.add_argument(
        "--max-restarts",
        type=whole_number(minimum=0),
        default=0,
        metavar="N",
        help="restarts of all processes from the last checkpoint after a failure; with torchrun use its own option",
    )
    add_overrides(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status.

    Args:
        argv: the arguments; None takes those of the process.
    """
    parser = build_parser()
    options = read_arguments(parser, argv)
    require_config(parser, options)
    from mrcnn_zoo.distributed.launch import FAILED
    from mrcnn_zoo.training.trainer import OutOfDeviceMemoryError

    try:
        return _start(options)
    except NonFiniteLossError as error:
        print(fitted(f"error: {error}", sys.stderr), file=sys.stderr)
        return FAILED
    except UserError as error:
        # Under torchrun every process raises the same error, and the first of each machine prints it. Only running out
        # of memory can happen in one process alone.
        if _is_first_on_machine() or isinstance(error, OutOfDeviceMemoryError):
            raise
        return USAGE_ERROR


def _start(options: argparse.Namespace) -> int:
    from mrcnn_zoo.distributed.launch import ProcessLayout, launch
    from mrcnn_zoo.modeling import resolve_device

    if options.output is not None:
        options.overrides += ["OUTPUT_DIR", options.output]
    if options.weights is not None:
        options.overrides += ["MODEL.WEIGHTS", options.weights]
    cfg = load_config(options.config_file, options.overrides)  # mistakes are reported before any process starts
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
    """Train or evaluate in one process; returns the exit status.

    Args:
        cfg: the whole config.
        options: of the command line.
    """
    from mrcnn_zoo.distributed.processes import is_main_process
    from mrcnn_zoo.training import run
    from mrcnn_zoo.training.stopping import TrainingInterrupted

    prepare_device(cfg)
    try:
        run(cfg, resume=options.resume, eval_only=options.eval_only, overwrite=options.overwrite)
    except TrainingInterrupted as interruption:
        if is_main_process():
            print(fitted(str(interruption), sys.stderr), file=sys.stderr)
        return interruption.exit_status
    return 0

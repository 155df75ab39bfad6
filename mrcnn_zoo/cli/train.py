"""Train a model from a config file, on one or several processes, or only evaluate it."""

import argparse
import os
import sys
from collections.abc import Sequence

from mrcnn_zoo.cli.main import USAGE_ERROR
from mrcnn_zoo.config import CfgNode, load_config
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.modeling import resolve_device
from mrcnn_zoo.ops.allocator import keep_freed_memory
from mrcnn_zoo.ops.processes import rank
from mrcnn_zoo.training import run
from mrcnn_zoo.training.launch import FAILED, Layout, launch
from mrcnn_zoo.training.nonfinite import NonFiniteLossError
from mrcnn_zoo.training.signals import TrainingInterrupted
from mrcnn_zoo.training.trainer import OutOfDeviceMemoryError

EPILOG = """\
examples:
  %(prog)s --config-file configs/Quickstart/mask_rcnn_R_18_FPN_digits.yaml
  %(prog)s --config-file X.yaml --num-gpus 8 SOLVER.BASE_LR 0.02 OUTPUT_DIR output/x
  %(prog)s --config-file X.yaml --resume OUTPUT_DIR=output/x
  %(prog)s --config-file X.yaml --eval-only MODEL.WEIGHTS output/x/model_final.pth
  torchrun --nproc-per-node 8 tools/train_net.py --config-file X.yaml
"""


def build_parser() -> argparse.ArgumentParser:
    """The command line, with the options that Detectron2's users type."""
    parser = argparse.ArgumentParser(
        prog="mrcnn-zoo train",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config-file", "--config", required=True, metavar="FILE", help="YAML file, or the name of a packaged config"
    )
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in OUTPUT_DIR, if any")
    parser.add_argument("--eval-only", action="store_true", help="evaluate MODEL.WEIGHTS, or the last checkpoint")
    parser.add_argument(
        "--overwrite", action="store_true", help="start afresh in OUTPUT_DIR, removing the checkpoints that it holds"
    )
    parser.add_argument(
        "--num-gpus",
        type=int,
        default=1,
        metavar="N",
        help="processes on this machine; without GPU on its CPU",
    )
    parser.add_argument("--num-machines", type=int, default=1, metavar="N", help="machines that train together")
    parser.add_argument("--machine-rank", type=int, default=0, metavar="I", help="number of this machine, from 0")
    parser.add_argument(
        "--dist-url", default="auto", metavar="URL", help="where the processes meet, e.g. tcp://10.0.0.1:29500"
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="config keys to change; KEY=VALUE too")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options = build_parser().parse_intermixed_args(argv)
    try:
        return _start(options)
    except NonFiniteLossError as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED
    except UserError as error:
        # Under torchrun every process finds the same mistake, and the first of each machine tells it. Only memory may
        # run out in one process alone.
        if _is_first_on_machine() or isinstance(error, OutOfDeviceMemoryError):
            raise
        return USAGE_ERROR


def _start(options: argparse.Namespace) -> int:
    cfg = load_config(options.config_file, options.overrides)  # a mistake shows before any process is started
    layout = Layout(
        processes_per_machine=options.num_gpus,
        num_machines=options.num_machines,
        machine_rank=options.machine_rank,
        url=options.dist_url,
        device=str(resolve_device(cfg.MODEL.DEVICE)),
    )
    return launch(train, [cfg, options], layout)


def _is_first_on_machine() -> bool:
    return os.environ.get("LOCAL_RANK", os.environ.get("RANK", "0")) == "0"


def train(cfg: CfgNode, options: argparse.Namespace) -> int:
    """What each process does."""
    if resolve_device(cfg.MODEL.DEVICE).type == "cpu":
        keep_freed_memory()
    try:
        run(cfg, resume=options.resume, eval_only=options.eval_only, overwrite=options.overwrite)
    except TrainingInterrupted as interruption:
        if rank() == 0:
            print(interruption, file=sys.stderr)
        return interruption.exit_status
    return 0

"""The `mrcnn-zoo` command; scripts in `tools/` run the same functions as sub-commands of their names."""

import errno
import importlib
import sys
from collections.abc import Sequence

from mrcnn_zoo import __version__
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.progress import fitted
from mrcnn_zoo.registry import did_you_mean

COMMANDS = {
    "train": ("mrcnn_zoo.cli.train", "train a model, or only evaluate it (--eval-only)"),
    "sweep": ("mrcnn_zoo.cli.sweep", "train variants of a config with several seeds, and compare them"),
    "evaluate": ("mrcnn_zoo.cli.evaluate", "evaluate a checkpoint on the test sets"),
    "report": ("mrcnn_zoo.cli.report", "write a page about a finished training or evaluation"),
    "predict": ("mrcnn_zoo.cli.predict", "detect, draw and save the instances in images"),
    "xray": ("mrcnn_zoo.cli.xray", "step through the stages of a model on one image, as an HTML page"),
    "precompute-proposals": ("mrcnn_zoo.cli.precompute_proposals", "write proposals as input of a Fast R-CNN"),
    "compare-proposals": ("mrcnn_zoo.cli.compare_proposals", "recall of proposal generators: tables and a picture"),
    "data": ("mrcnn_zoo.cli.data", "datasets: info, convert, split, merge, tile, sample"),
    "visualize-data": ("mrcnn_zoo.cli.visualize_data", "draw a dataset, training batches, anchors, labels, regions"),
    "doctor": ("mrcnn_zoo.cli.doctor", "check datasets, config and model before a training"),
    "analyze-model": (
        "mrcnn_zoo.cli.analyze_model",
        "parameters, FLOPs, shapes, time and weights of a model by module",
    ),
    "export": ("mrcnn_zoo.cli.export", "write a whole detector as ONNX or a program of torch.export"),
    "export-dataset": ("mrcnn_zoo.cli.export_dataset", "same as `data convert --to coco`"),
    "zoo": ("mrcnn_zoo.cli.zoo", "published models: list, download, verify, reproduce"),
    "config": ("mrcnn_zoo.cli.config", "explain a key, show a resolved config, check a folder of configs"),
    "convert-checkpoint": ("mrcnn_zoo.cli.convert_checkpoint", "convert weights from and to other projects"),
    "benchmark": (
        "mrcnn_zoo.cli.benchmark",
        "time and memory of training, inference, data loading and evaluation",
    ),
}

EXAMPLES = (
    "train --config-file Quickstart/mask_rcnn_R_18_FPN_digits.yaml",
    "evaluate --weights output/model_best.pth",
    "predict photo.jpg --weights zoo://Quickstart/mask_rcnn_R_18_FPN_digits",
    "config explain SOLVER.BASE_LR",
)

USAGE_ERROR = 2  # exit status of an error that the user can correct
SYSTEM_REFUSALS = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.ENAMETOOLONG,
    errno.ENOTDIR,
)
INTERRUPTED = 130  # exit status of Ctrl-C in shells


def main(argv: Sequence[str] | None = None) -> int:
    """Run a sub-command; returns the exit status.

    Args:
        argv: the arguments; None takes those of the process.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_usage())
        return 0
    if arguments[0] in ("-V", "--version"):
        print(f"mrcnn_zoo {__version__}")
        return 0
    name, *rest = arguments
    if name not in COMMANDS:
        print(f"mrcnn-zoo: no command {name!r}.{did_you_mean(name, COMMANDS)}\n\n{_usage()}", file=sys.stderr)
        return USAGE_ERROR
    return run_command(name, rest)


def run_command(name: str, argv: Sequence[str] | None = None) -> int:
    """Run one command; prints a UserError as one message, without a traceback, and returns the exit status.

    Args:
        name: a key of `COMMANDS`.
        argv: its arguments; None takes those of the process.
    """
    try:
        return importlib.import_module(COMMANDS[name][0]).main(argv)
    except UserError as error:
        print(fitted(f"error: {error}", sys.stderr), file=sys.stderr)
        return USAGE_ERROR
    except BrokenPipeError:  # the reader, e.g. `head`, closed the pipe
        sys.stderr.close()
        return 0
    except OSError as error:
        if error.errno not in SYSTEM_REFUSALS:
            raise
        print(f"error: {f'{error.filename}: ' if error.filename else ''}{error.strerror}.", file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt:
        return INTERRUPTED


def _usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {meaning}" for name, (_, meaning) in COMMANDS.items()]
    usage = "usage: mrcnn-zoo COMMAND ...    (mrcnn-zoo COMMAND --help shows its options and examples)"
    examples = ["examples:", *(f"  mrcnn-zoo {example}" for example in EXAMPLES)]
    return "\n".join([usage, "", *lines, "", *examples])


if __name__ == "__main__":
    sys.exit(main())

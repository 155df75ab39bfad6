"""Evaluate a checkpoint on DATASETS.TEST, or a results file: prints COCO tables, writes result files and pictures."""

import argparse
import logging
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from mrcnn_zoo.cli.options import (
    add_config_option,
    add_output_options,
    add_overrides,
    add_trust_option,
    add_weights_option,
    given_weights,
    logging_lines,
    open_given_model,
    output_folder,
    prepare_device,
)
from mrcnn_zoo.cli.parser import CommandParser, read_arguments
from mrcnn_zoo.config import CfgNode, changed_config, load_config
from mrcnn_zoo.output_files import RESULT_FOLDERS, check_output_folder

if TYPE_CHECKING:
    from mrcnn_zoo.checkpoint import WeightsFile
    from mrcnn_zoo.data.records import Dataset
    from mrcnn_zoo.training.log_files import LogFile

RESULTS = Path("inference") / "results.json"

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate a checkpoint, print the tables and the written files; returns the exit status.

    Args:
        argv: the arguments; None takes those of the process.
    """
    parser = build_parser()
    arguments = read_arguments(parser, argv)
    _check_combination(parser, arguments)
    with logging_lines():
        if arguments.output is not None:
            check_output_folder(arguments.output, option="--output")  # before the weights are read
        if arguments.predictions is not None:
            _evaluate_predictions(arguments)
        else:
            _evaluate(arguments)
    return 0


def _check_combination(parser: CommandParser, arguments: argparse.Namespace) -> None:
    if (arguments.predictions is None) != (arguments.annotations is None):
        missing = "--annotations" if arguments.annotations is None else "--predictions"
        parser.error(f"{missing} is missing: a results file is evaluated with both")
    if arguments.predictions is not None and arguments.weights is not None:
        parser.error("--predictions and --weights exclude each other: a results file needs no model")


def _evaluate_predictions(arguments: argparse.Namespace) -> None:
    from mrcnn_zoo.evaluation.predictions_file import evaluate_predictions
    from mrcnn_zoo.inspection.evaluation_files import EvaluationFiles, build_evaluation_plots
    from mrcnn_zoo.inspection.run_report.config import EVALUATED_CONFIG, record_config
    from mrcnn_zoo.inspection.run_report.page import log_run_report
    from mrcnn_zoo.training.log_files import logging_to

    cfg = load_config(arguments.config_file, arguments.overrides)
    files = arguments.predictions, arguments.annotations
    if arguments.output is None:
        evaluate_predictions(*files, cfg)
        return
    folder = check_output_folder(arguments.output, option="--output", subfolders=RESULT_FOLDERS)
    with logging_to(folder) as log:
        log.open()
        dataset, _ = evaluate_predictions(*files, cfg, output_dir=folder)
        record_config(_with_dataset(cfg, dataset), folder, name=EVALUATED_CONFIG)
        evaluation = EvaluationFiles(folder, dataset)
        paths = build_evaluation_plots(cfg, evaluation)
        logger.info("tables in %s\n%s", folder / "inference" / "results.md", "\n".join(map(str, paths)))
        if cfg.VIS.REPORT:
            log_run_report(folder, evaluations=[evaluation])


def _with_dataset(cfg: CfgNode, dataset: "Dataset") -> CfgNode:
    """The config with the annotations as its test set, so that the report can be made again."""
    annotations = Path(dataset.annotation_file).absolute()
    # Images are expected beside the annotations; without them the report has no pictures.
    definition = {"FORMAT": "coco", "IMAGES": str(annotations.parent), "ANNOTATIONS": str(annotations)}
    settings = {"DATASETS.TEST": [dataset.name], f"DATASETS.DEFINITIONS.{dataset.name}": definition}
    return changed_config(cfg, settings, source="--annotations")


def _evaluate(arguments: argparse.Namespace) -> None:
    from mrcnn_zoo.evaluation import prepare_evaluation
    from mrcnn_zoo.inference.trained import class_names_of
    from mrcnn_zoo.inspection.evaluation_pictures import evaluate_with_pictures, evaluation_folders
    from mrcnn_zoo.training.log_files import logging_to
    from mrcnn_zoo.training.run_context import record_environment

    weights = given_weights(arguments)
    with ExitStack() as stack:
        checked: list[tuple[LogFile, Path, list[Dataset]]] = []

        def check(cfg: CfgNode, file: "WeightsFile") -> None:
            prepare_device(cfg)
            folder = output_folder(arguments, cfg, subfolders=RESULT_FOLDERS)
            log = stack.enter_context(logging_to(folder))
            checked.append((log, folder, prepare_evaluation(cfg, class_names_of(file), model=file.source)))
            if (folder / RESULTS).exists() and not arguments.overwrite:
                logger.info("the results of an earlier evaluation in %s will be replaced", folder / RESULTS.parent)

        model, cfg, trained = open_given_model(arguments, weights, check=check, takes_programs=True)
        ((log, folder, datasets),) = checked
        log.open()
        for place in evaluation_folders(cfg, folder):
            record_environment(place / "inference")
        evaluate_with_pictures(model, cfg, folder, datasets=datasets, class_names=trained.class_names)


def build_parser() -> CommandParser:
    """The command line."""
    parser = CommandParser(
        prog="mrcnn-zoo evaluate",
        description=__doc__,
        examples=(
            "--weights zoo://Quickstart/mask_rcnn_R_18_FPN_digits --output results",
            "output/model_best.pth",
            "--weights output DATASETS.TEST [digits_val] TEST.NUM_IMAGES 50 MODEL.DEVICE cpu",
            "--weights model.pth --config-file my.yaml",
            "--predictions results.json --annotations instances_val.json --output results EVAL.METRICS [f1,tide]",
        ),
    )
    add_weights_option(parser)
    add_trust_option(parser)
    add_config_option(parser, text="default: the one in the weights")
    add_output_options(
        parser,
        text="folder of the results (default: OUTPUT_DIR of the config)",
        overwrite="replace the results of an earlier evaluation without a message",
    )
    parser.add_argument(
        "--predictions",
        metavar="FILE.json",
        help="evaluate COCO results of any tool instead of a checkpoint; without --output the tables are only printed",
    )
    text = "ground truth for --predictions: a COCO file, or a dataset of any format as in DATASETS.TEST"
    parser.add_argument("--annotations", metavar="FILE.json | FOLDER", help=text)
    add_overrides(parser)
    return parser

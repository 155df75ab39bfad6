"""Write proposals for whole datasets, as input of a Fast R-CNN: of a trained model, or without a network."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mrcnn_zoo.choices import PROPOSAL_FORMATS
from mrcnn_zoo.cli.options import (
    add_config_option,
    add_output_options,
    add_overrides,
    add_trust_option,
    add_weights_option,
    given_weights,
    logging_lines,
    output_folder,
    prepare_device,
)
from mrcnn_zoo.cli.parser import CommandParser, read_arguments, whole_number
from mrcnn_zoo.config import CfgNode, load_config
from mrcnn_zoo.config.values import typed_list
from mrcnn_zoo.errors import UserError, counted
from mrcnn_zoo.output_files import check_output_folder, refuse_to_replace

if TYPE_CHECKING:
    from torch import nn

    from mrcnn_zoo.checkpoint import WeightsFile
    from mrcnn_zoo.data import Dataset
    from mrcnn_zoo.data.proposals import StoredProposals
    from mrcnn_zoo.evaluation.precomputation import Precomputation
    from mrcnn_zoo.evaluation.proposal_jobs import ProposalJob

    Opened = tuple[ProposalJob, nn.Module, list[Dataset]]


def main(argv: Sequence[str] | None = None) -> int:
    """Write a file per dataset, and print the keys with which a config loads them; returns the exit status.

    Args:
        argv: the arguments; None takes those of the process.
    """
    arguments = read_arguments(build_parser(), argv)
    with logging_lines():
        if arguments.output is not None:
            check_output_folder(arguments.output, option="--output")  # before the weights are read
        _precompute(arguments)
    return 0


def _precompute(arguments: argparse.Namespace) -> None:
    from mrcnn_zoo.data.proposals import read_proposals
    from mrcnn_zoo.evaluation.precomputation import plan_precomputation, precompute

    job, model, datasets = _open_without_network(arguments) or _open_trained(arguments)
    cfg = job.cfg
    paths = _paths(arguments, cfg)
    plans = [plan_precomputation(job, dataset, path) for dataset, path in zip(datasets, paths.values(), strict=True)]
    unfinished = [plan for plan in plans if not (arguments.resume and plan.is_finished())]
    for plan in unfinished:
        plan.start(resume=arguments.resume, overwrite=arguments.overwrite)
    for plan in plans:
        if plan in unfinished:
            precompute(plan, model=model, workers=arguments.workers)
            print(_written(plan, plan.finish()))
        else:
            print(f"{_written(plan, read_proposals(plan.path))}, finished before")
    print("Train a Fast R-CNN on them, with a config of a GeneralizedRCNN and these keys:")
    print("  MODEL.LOAD_PROPOSALS True MODEL.PROPOSAL_GENERATOR.NAME PrecomputedProposals")
    for split, members in (("TRAIN", cfg.DATASETS.TRAIN), ("TEST", cfg.DATASETS.TEST)):
        if members:
            print(f"  DATASETS.PROPOSAL_FILES_{split} {typed_list([str(paths[name]) for name in members])}")


def _open_without_network(arguments: argparse.Namespace) -> "Opened | None":
    """The generator of `--config-file`, if it has no parameters and no weights are given."""
    from mrcnn_zoo.evaluation.proposal_jobs import build_job_without_network, fit_min_box_area, needs_weights

    if arguments.weights or arguments.config_file is None:
        return None
    cfg = load_config(arguments.config_file, arguments.overrides)
    if needs_weights(build_job_without_network(cfg)[1]):
        return None
    _check(arguments, cfg)
    datasets = _load(cfg)
    return *build_job_without_network(fit_min_box_area(cfg, datasets)), datasets


def _open_trained(arguments: argparse.Namespace) -> "Opened":
    from mrcnn_zoo.evaluation.proposal_jobs import ProposalJob
    from mrcnn_zoo.inference.trained import open_trained

    weights = given_weights(arguments)

    def check(cfg: CfgNode, _: "WeightsFile") -> None:
        _check(arguments, cfg)

    model, cfg, trained = open_trained(
        weights, config=arguments.config_file, overrides=arguments.overrides, trust=arguments.trust, check=check
    )
    return ProposalJob(cfg, weights=trained.file.source), model, _load(cfg)


def _check(arguments: argparse.Namespace, cfg: CfgNode) -> None:
    prepare_device(cfg)
    paths = _paths(arguments, cfg)
    if not arguments.overwrite and not arguments.resume:
        refuse_to_replace(paths.values(), option="--output")


def _load(cfg: CfgNode) -> "list[Dataset]":
    from mrcnn_zoo.data import load_dataset

    return [load_dataset(cfg, name) for name in _dataset_names(cfg)]


def _dataset_names(cfg: CfgNode) -> list[str]:
    return list(dict.fromkeys([*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]))


def _paths(arguments: argparse.Namespace, cfg: CfgNode) -> dict[str, Path]:
    """The file of each dataset."""
    folder = output_folder(arguments, cfg)
    names = _dataset_names(cfg)
    if not names:
        raise UserError("DATASETS.TRAIN and DATASETS.TEST are empty: name the datasets to compute proposals for.")
    paths = {name: folder / f"{name.replace('/', '_')}_proposals{arguments.format}" for name in names}
    if len(set(paths.values())) < len(paths):
        raise UserError(
            f"the datasets {', '.join(names)} would have proposals in the same file; write them into different folders "
            "with --output."
        )
    return paths


def _written(plan: "Precomputation", proposals: "Mapping[Any, StoredProposals]") -> str:
    count = sum(len(table.boxes) for table in proposals.values())
    limit = plan.job.cfg.TEST.NUM_IMAGES
    part = "" if plan.is_whole else f" of {plan.num_images} (TEST.NUM_IMAGES is {limit})"
    return f"{plan.path}: {counted(count, 'proposal')} in {counted(len(proposals), 'image')}{part}"


def build_parser() -> CommandParser:
    """The command line."""
    parser = CommandParser(
        prog="mrcnn-zoo precompute-proposals",
        description=__doc__,
        examples=(
            "--weights output/model_best.pth --output proposals",
            "--weights output --format .pkl DATASETS.TRAIN digits_train MODEL.RPN.POST_NMS_TOPK_TEST 2000",
            "--config-file Proposals/selective_search_coco.yaml --workers 8 --output proposals",
        ),
    )
    add_weights_option(parser)
    add_trust_option(parser)
    add_config_option(
        parser, text="default: the one in the weights; enough for a generator without parameters, e.g. SelectiveSearch"
    )
    add_output_options(
        parser,
        text="folder of the files (default: OUTPUT_DIR of the config)",
        overwrite="replace existing files of proposals, and start unfinished ones again",
    )
    parser.add_argument("--resume", action="store_true", help="continue unfinished files, and keep finished ones")
    parser.add_argument(
        "--workers", type=whole_number(minimum=1), default=1, metavar="N", help="processes of one thread (default: 1)"
    )
    parser.add_argument(
        "--format",
        choices=PROPOSAL_FORMATS,
        default=PROPOSAL_FORMATS[0],
        help="compressed numpy arrays (default) or Detectron2's pickle",
    )
    add_overrides(
        parser,
        text="config keys: DATASETS.TRAIN, .TEST select the images, MODEL.RPN.POST_NMS_TOPK_TEST the number per image",
    )
    return parser

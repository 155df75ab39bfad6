"""Write a model's proposals for whole datasets, as input of a Fast R-CNN."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from mrcnn_zoo.checkpoint import WeightsFile
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
from mrcnn_zoo.cli.parser import CommandParser, read_arguments
from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.config.values import typed_list
from mrcnn_zoo.data import load_dataset
from mrcnn_zoo.data.proposals import FORMATS, write_proposals
from mrcnn_zoo.errors import UserError, counted
from mrcnn_zoo.evaluation.evaluator import build_prediction_loader
from mrcnn_zoo.evaluation.proposals import compute_proposals
from mrcnn_zoo.inference.trained import open_trained
from mrcnn_zoo.output_files import check_output_folder, refuse_to_replace


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
    def check(cfg: CfgNode, _: WeightsFile) -> None:
        prepare_device(cfg)
        paths = _paths(arguments, cfg)
        if not arguments.overwrite:
            refuse_to_replace(paths.values(), option="--output")

    weights = given_weights(arguments)
    model, cfg, _ = open_trained(
        weights, config=arguments.config_file, overrides=arguments.overrides, trust=arguments.trust, check=check
    )
    paths = _paths(arguments, cfg)
    for name, path in paths.items():
        print(_write(model, cfg, name, path))
    print("Train a Fast R-CNN on them with:")
    print("  MODEL.LOAD_PROPOSALS True MODEL.PROPOSAL_GENERATOR.NAME PrecomputedProposals")
    for split, members in (("TRAIN", cfg.DATASETS.TRAIN), ("TEST", cfg.DATASETS.TEST)):
        if members:
            print(f"  DATASETS.PROPOSAL_FILES_{split} {typed_list([str(paths[name]) for name in members])}")


def _paths(arguments: argparse.Namespace, cfg: CfgNode) -> dict[str, Path]:
    """The file of each dataset."""
    folder = output_folder(arguments, cfg)
    names = list(dict.fromkeys([*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]))
    if not names:
        raise UserError("DATASETS.TRAIN and DATASETS.TEST are empty: name the datasets to compute proposals for.")
    return {name: folder / f"{name.replace('/', '_')}_proposals{arguments.format}" for name in names}


def _write(model: nn.Module, cfg: CfgNode, name: str, path: Path) -> str:
    dataset = load_dataset(cfg, name)
    proposals = compute_proposals(model, build_prediction_loader(cfg, dataset, model))
    write_proposals(path, proposals)
    count = sum(len(table.boxes) for table in proposals.values())
    part = "" if len(proposals) == len(dataset) else f" of {len(dataset)} (TEST.NUM_IMAGES is {cfg.TEST.NUM_IMAGES})"
    return f"{path}: {counted(count, 'proposal')} in {counted(len(proposals), 'image')}{part}"


def build_parser() -> CommandParser:
    """The command line."""
    parser = CommandParser(
        prog="mrcnn-zoo precompute-proposals",
        description=__doc__,
        examples=(
            "--weights output/model_best.pth --output proposals",
            "--weights output --format .npz DATASETS.TRAIN digits_train MODEL.RPN.POST_NMS_TOPK_TEST 2000",
        ),
    )
    add_weights_option(parser)
    add_trust_option(parser)
    add_config_option(parser, text="default: the one in the weights")
    add_output_options(
        parser,
        text="folder of the files (default: OUTPUT_DIR of the config)",
        overwrite="replace existing files of proposals",
    )
    parser.add_argument(
        "--format", choices=FORMATS, default=FORMATS[0], help="Detectron2's pickle (default) or numpy arrays"
    )
    add_overrides(
        parser,
        text="config keys: DATASETS.TRAIN, .TEST select the images, MODEL.RPN.POST_NMS_TOPK_TEST the number per image",
    )
    return parser

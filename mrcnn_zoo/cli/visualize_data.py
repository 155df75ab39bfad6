"""Draw a dataset with its annotations, or the training batches."""

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from mrcnn_zoo import data
from mrcnn_zoo.cli.options import (
    add_config_option,
    add_output_options,
    add_overrides,
    load_command_config,
    logging_lines,
    require_config,
)
from mrcnn_zoo.cli.parser import CommandParser, read_arguments, whole_number
from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.data.classes import unite_classes
from mrcnn_zoo.data.paths import folder_name
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.inspection.pictures import is_own_picture, save_dataset_images, save_training_batches, spread
from mrcnn_zoo.output_files import check_output_folder, refuse_to_replace


def main(argv: Sequence[str] | None = None) -> int:
    """Write pictures and print their paths; returns the exit status.

    Args:
        argv: the arguments; None takes those of the process.
    """
    parser = build_parser()
    arguments = read_arguments(parser, argv)
    require_config(parser, arguments)
    with logging_lines(sys.stderr):
        if arguments.output is not None:
            check_output_folder(arguments.output, option="--output")
        cfg = load_command_config(arguments)
        folder = _folder(arguments, cfg)
        draw = _draw_batches if arguments.source == "dataloader" else _draw_images
        for path in draw(cfg, folder, arguments):
            print(path)
    return 0


def _folder(arguments: argparse.Namespace, cfg: CfgNode) -> Path:
    if arguments.output is not None:
        return check_output_folder(arguments.output, option="--output")
    return check_output_folder(cfg.OUTPUT_DIR, option="OUTPUT_DIR") / "pictures" / arguments.source


def _draw_images(cfg: CfgNode, folder: Path, arguments: argparse.Namespace) -> list[Path]:
    _require_names([*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST])
    loaded = data.load_train_and_test(cfg)
    held_out = "_held_out" if cfg.DATASETS.FOLDS else ""
    datasets = {folder / folder_name(dataset.name): dataset for dataset in loaded.train}
    for dataset in loaded.test:
        is_part = dataset.name in cfg.DATASETS.TRAIN
        datasets.setdefault(folder / f"{folder_name(dataset.name)}{held_out if is_part else ''}", dataset)
    for place, dataset in datasets.items():
        records = spread(dataset.records, arguments.num)
        _refuse_foreign((place / f"{record.image_id}.png" for record in records), arguments)
    drawn = [save_dataset_images(dataset, place, num_images=arguments.num) for place, dataset in datasets.items()]
    return [path for paths in drawn for path in paths]


def _draw_batches(cfg: CfgNode, folder: Path, arguments: argparse.Namespace) -> list[Path]:
    _refuse_foreign((folder / f"train_batch_{number}.png" for number in range(arguments.num)), arguments)
    _require_names(cfg.DATASETS.TRAIN)
    datasets = unite_classes(data.load_train(cfg))
    loader = data.build_train_loader(cfg, datasets, seed=max(cfg.SEED, 0))
    return save_training_batches(
        loader,
        folder,
        datasets[0].class_names,
        channel_order=cfg.INPUT.FORMAT,
        num_batches=arguments.num,
        skeleton=datasets[0].keypoint_skeleton,
    )


def _refuse_foreign(pictures: Iterable[Path], arguments: argparse.Namespace) -> None:
    """Refuse to replace pictures that no earlier run has written; `--overwrite` allows it."""
    if not arguments.overwrite:
        refuse_to_replace((path for path in pictures if path.exists() and not is_own_picture(path)), option="--output")


def _require_names(names: Sequence[str]) -> None:
    if not names:
        raise UserError("the config names no dataset to draw: set DATASETS.TRAIN, e.g. DATASETS.TRAIN digits_train")


def build_parser() -> CommandParser:
    """The command line."""
    parser = CommandParser(
        prog="mrcnn-zoo visualize-data",
        description=__doc__,
        examples=(
            "--config-file Quickstart/mask_rcnn_R_18_FPN_digits.yaml",
            "--config-file my.yaml --source dataloader --num 2 --output pictures",
            "--config-file my.yaml DATASETS.TRAIN digits_train DATASETS.TEST ''",
        ),
    )
    add_config_option(parser, text="selects the datasets")
    parser.add_argument(
        "--source",
        choices=("dataset", "dataloader"),
        default="dataset",
        help="dataset: image files of DATASETS.TRAIN and TEST with their annotations; dataloader: training batches",
    )
    parser.add_argument(
        "--num", type=whole_number(minimum=1), default=8, help="images per dataset, or batches (default: 8)"
    )
    add_output_options(
        parser,
        text="folder of the pictures (default: OUTPUT_DIR/pictures/<source>)",
        overwrite="also replace pictures in it that this program has not written",
    )
    add_overrides(parser)
    return parser

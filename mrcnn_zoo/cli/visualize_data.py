"""`mrcnn-zoo visualize-data`: draw a dataset, or the batches that a model is trained on."""

import argparse
import logging
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from mrcnn_zoo import data
from mrcnn_zoo.config import CfgNode, load_config
from mrcnn_zoo.data.classes import unite_classes
from mrcnn_zoo.data.paths import folder_name
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.inspection.pictures import save_dataset_images, save_training_batches


def main(argv: Sequence[str] | None = None) -> int:
    """Write pictures and print their paths."""
    arguments = _parser().parse_intermixed_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    cfg = load_config(arguments.config_file, arguments.overrides)
    folder = Path(arguments.output_dir or Path(cfg.OUTPUT_DIR) / "pictures" / arguments.source)
    draw = _draw_batches if arguments.source == "dataloader" else _draw_images
    for path in draw(cfg, folder, arguments.num):
        print(path)
    return 0


def _draw_images(cfg: CfgNode, folder: Path, count: int) -> list[Path]:
    names = dict.fromkeys([*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST])
    datasets = [data.load_dataset(cfg, name) for name in _some(names)]
    drawn = [save_dataset_images(dataset, folder / folder_name(dataset.name), num_images=count) for dataset in datasets]
    return [path for paths in drawn for path in paths]


def _draw_batches(cfg: CfgNode, folder: Path, count: int) -> list[Path]:
    datasets = unite_classes([data.load_dataset(cfg, name) for name in _some(cfg.DATASETS.TRAIN)])
    loader = data.build_train_loader(cfg, datasets, seed=max(cfg.SEED, 0))
    return save_training_batches(
        loader,
        folder,
        datasets[0].class_names,
        channel_order=cfg.INPUT.FORMAT,
        num_batches=count,
        skeleton=datasets[0].keypoint_skeleton,
    )


def _some(names: Iterable[str]) -> list[str]:
    if not list(names):
        raise UserError("the config names no dataset to draw: set DATASETS.TRAIN, e.g. DATASETS.TRAIN digits_train,")
    return list(names)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mrcnn-zoo visualize-data", description=__doc__)
    parser.add_argument("--config-file", "--config", required=True, metavar="X.yaml", help="names the datasets")
    parser.add_argument(
        "--source",
        choices=("dataset", "dataloader"),
        default="dataset",
        help="dataset: image files of DATASETS.TRAIN and TEST with their annotations; dataloader: training batches",
    )
    parser.add_argument("--num", type=int, default=8, help="images of each dataset, or batches (default: 8)")
    parser.add_argument("--output-dir", default="", metavar="DIR", help="default: OUTPUT_DIR/pictures/<source>")
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE | KEY=VALUE", help="config keys")
    return parser

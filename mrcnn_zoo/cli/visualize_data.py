"""`mrcnn-zoo visualize-data`: draw a dataset, or the batches that a model is trained on."""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from mrcnn_zoo.config import load_config
from mrcnn_zoo.inspection.pictures import save_datasets, save_loader_batches


def main(argv: Sequence[str] | None = None) -> int:
    """Write pictures and print their paths."""
    arguments = _parser().parse_intermixed_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    cfg = load_config(arguments.config_file, arguments.overrides)
    folder = Path(arguments.output_dir or Path(cfg.OUTPUT_DIR) / "visualizations" / arguments.source)
    if arguments.source == "dataloader":
        paths = save_loader_batches(cfg, folder, num_batches=arguments.num)
    else:
        paths = save_datasets(cfg, folder, num_images=arguments.num)
    print("\n".join(map(str, paths)))
    return 0


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
    parser.add_argument("--output-dir", default="", metavar="DIR", help="default: OUTPUT_DIR/visualizations/<source>")
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE | KEY=VALUE", help="config keys")
    return parser

"""`mrcnn-zoo export-dataset`: any dataset as a COCO folder."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mrcnn_zoo.config import load_config
from mrcnn_zoo.data.catalog import load_dataset
from mrcnn_zoo.data.export import export_coco


def main(argv: Sequence[str] | None = None) -> int:
    """Write the dataset and say where it is; returns the exit status."""
    arguments = _parser().parse_intermixed_args(argv)
    cfg = load_config(arguments.config_file, arguments.overrides)
    dataset = load_dataset(cfg, arguments.name)
    folder = Path(arguments.folder)
    export_coco(dataset, folder, may_overwrite=arguments.overwrite)
    num_instances = sum(len(record.instances) for record in dataset.records)
    print(f"{len(dataset)} images with {num_instances} objects are in {folder}. To use them: DATASETS.TRAIN {folder}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mrcnn-zoo export-dataset", description=__doc__)
    parser.add_argument("name", metavar="NAME", help="of the dataset, e.g. digits_val")
    parser.add_argument("folder", metavar="FOLDER", help="gets images/ and annotations.json; new or empty")
    parser.add_argument("--config-file", "--config", metavar="X.yaml", help="defines the dataset, or its settings")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier export in FOLDER")
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE | KEY=VALUE", help="config keys")
    return parser

"""`mrcnn-zoo precompute-proposals`: write a model's proposals for whole datasets, for Fast R-CNN to load."""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.data import load_dataset
from mrcnn_zoo.data.proposal_files import FORMATS, write_proposals
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.evaluation import load_trained
from mrcnn_zoo.evaluation.evaluator import build_prediction_loader
from mrcnn_zoo.evaluation.precompute import compute_proposals
from mrcnn_zoo.modeling import resolve_device
from mrcnn_zoo.ops.allocator import keep_freed_memory


def main(argv: Sequence[str] | None = None) -> int:
    """Write a file for each dataset, and print the keys with which a config loads them."""
    arguments = _parser().parse_intermixed_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    model, cfg, _ = load_trained(arguments.weights, config=arguments.config_file, overrides=arguments.overrides)
    if resolve_device(cfg.MODEL.DEVICE).type == "cpu":
        keep_freed_memory()
    folder = Path(arguments.output_dir or cfg.OUTPUT_DIR)
    splits = {"TRAIN": list(cfg.DATASETS.TRAIN), "TEST": list(cfg.DATASETS.TEST)}
    names = list(dict.fromkeys(name for split in splits.values() for name in split))
    if not names:
        raise UserError("DATASETS.TRAIN and DATASETS.TEST are empty: name the datasets to make proposals for.")
    paths = {name: folder / f"{name.replace('/', '_')}_proposals{arguments.format}" for name in names}
    for name, path in paths.items():
        print(_write(model, cfg, name, path))
    print("Train a Fast R-CNN on them with:")
    print("  MODEL.LOAD_PROPOSALS True MODEL.PROPOSAL_GENERATOR.NAME PrecomputedProposals")
    for split, members in splits.items():
        if members:
            print(f'  DATASETS.PROPOSAL_FILES_{split} "{[str(paths[name]) for name in members]}"')
    return 0


def _write(model: nn.Module, cfg: CfgNode, name: str, path: Path) -> str:
    dataset = load_dataset(cfg, name)
    proposals = compute_proposals(model, build_prediction_loader(cfg, dataset, model))
    write_proposals(path, proposals)
    count = sum(len(table.boxes) for table in proposals.values())
    part = "" if len(proposals) == len(dataset) else f" of {len(dataset)} (TEST.NUM_IMAGES is {cfg.TEST.NUM_IMAGES})"
    return f"{path}: {count} proposals in {len(proposals)} images{part}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mrcnn-zoo precompute-proposals", description=__doc__)
    parser.add_argument("--weights", default="", metavar="FILE", help="checkpoint; MODEL.WEIGHTS without it")
    parser.add_argument("--config-file", "--config", metavar="X.yaml", help="default: the config in the checkpoint")
    parser.add_argument("--output-dir", default="", metavar="DIR", help="default: OUTPUT_DIR of the config")
    parser.add_argument(
        "--format", choices=FORMATS, default=FORMATS[0], help="Detectron2's pickle (default) or plain arrays"
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="KEY VALUE | KEY=VALUE",
        help="config keys: DATASETS.TRAIN and .TEST say for which images, MODEL.RPN.POST_NMS_TOPK_TEST how many",
    )
    return parser

"""`mrcnn-zoo benchmark`: seconds and memory of inference, training, data loading and evaluation."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mrcnn_zoo.config import CfgNode, load_config
from mrcnn_zoo.config.trust import code_modules
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.experiments.benchmark.data import benchmark_evaluation, benchmark_loading
from mrcnn_zoo.experiments.benchmark.models import ModelPlan, benchmark_models
from mrcnn_zoo.experiments.benchmark.report import BenchmarkReport

DEFAULT_CONFIG = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"
MODEL_TASKS = ("inference", "train")
DEFAULT_BATCH_SIZE = {"inference": 1, "train": 2}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the report and write it as JSON when asked to; returns the exit status."""
    arguments = _parser().parse_intermixed_args(argv)
    if arguments.against and arguments.task not in MODEL_TASKS:
        raise UserError(f"--against is for --task {' and '.join(MODEL_TASKS)}, not for {arguments.task}.")
    cfg = load_config(arguments.config_file, [*_implied_overrides(arguments), *arguments.overrides])
    report = _measure(arguments, cfg)
    print(report.text())
    if arguments.output:
        report.write(Path(arguments.output))
    return 0


def _measure(arguments: argparse.Namespace, cfg: CfgNode) -> BenchmarkReport:
    if arguments.task == "data":
        return benchmark_loading(cfg, arguments.images, num_batches=arguments.num_batches, repeats=arguments.repeats)
    if arguments.task == "eval":
        return benchmark_evaluation(
            cfg, arguments.images, detections_per_image=arguments.detections, repeats=arguments.repeats
        )
    return benchmark_models(
        ModelPlan(
            config_text=cfg.dump(),
            trust=code_modules(cfg),
            task=arguments.task,
            is_against_torchvision=arguments.against == "torchvision",
            images=arguments.images,
            num_batches=arguments.num_batches,
            batch_size=arguments.batch_size or DEFAULT_BATCH_SIZE[arguments.task],
            repeats=arguments.repeats,
            mask_form=arguments.masks,
            keeps_memory=arguments.malloc == "keep",
            num_threads=arguments.threads,
            measures_memory=not arguments.no_memory,
        )
    )


def _implied_overrides(arguments: argparse.Namespace) -> list[Any]:
    overrides: list[Any] = []
    if arguments.against == "torchvision":
        overrides += ["MODEL.RESNETS.STRIDE_IN_1X1", False]  # where torchvision's ResNets have it
    if arguments.image_size:
        shorter, longer = arguments.image_size
        for split, smallest in (("TRAIN", [shorter]), ("TEST", shorter)):
            overrides += [f"INPUT.MIN_SIZE_{split}", smallest, f"INPUT.MAX_SIZE_{split}", longer]
    return overrides


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mrcnn-zoo benchmark", description=__doc__)
    add = parser.add_argument
    add("--task", required=True, choices=(*MODEL_TASKS, "data", "eval"))
    add("--config-file", "--config", default=DEFAULT_CONFIG, metavar="X.yaml", help=f"default: {DEFAULT_CONFIG}")
    add("--against", choices=("torchvision",), help="measure this model too, in turns with ours (inference, train)")
    add("--images", default="", metavar="NAME|FOLDER", help="dataset, COCO folder or, for inference, any image folder")
    add("--image-size", type=int, nargs=2, metavar=("SHORTER", "LONGER"), help="as INPUT.MIN_SIZE and MAX_SIZE")
    add("--batch-size", type=_positive, help="images in a batch (default: 1 for inference, 2 for train)")
    add("--num-batches", type=_positive, default=4, help="different batches in a round (default: 4)")
    add("--repeats", type=_positive, default=5, help="rounds that are measured, after one of warm-up (default: 5)")
    add("--masks", choices=("bitmap", "rle"), default="bitmap", help="what inference ends with (default: bitmap)")
    add(
        "--malloc", choices=("keep", "default"), default="keep", help="whether glibc keeps freed memory (default: keep)"
    )
    add("--threads", type=_positive, default=0, help="of torch on the CPU (default: torch's own)")
    add("--no-memory", action="store_true", help="leave out the peak memory, which is measured in new processes")
    add("--detections", type=_positive, default=100, help="of an image, for --task eval (default: 100)")
    add("--output", metavar="FILE.json", help="write the report there too")
    add("overrides", nargs="*", metavar="KEY VALUE | KEY=VALUE", help="config keys")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value

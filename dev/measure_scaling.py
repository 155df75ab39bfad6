"""Curves of time and memory against image size, objects, proposals, classes, evaluated images and processes.

python dev/measure_scaling.py sizes proposals
python dev/measure_scaling.py all --points 3
python dev/measure_scaling.py paper

Each point is measured in a process of its own, on generated data with one thread: processor seconds of a call
(of the later two the faster), and the peak of the resident memory above that before the first call. The last rows
have the slope of a straight line through the logarithms, the exponent, of all points and of the last two: 1 is
linear. `--points` takes the first points only.
`paper` prints what 64 GPUs need, from the number of parameters and measured sizes. Results: dev/SCALING.md.
"""

import argparse
import multiprocessing
import os
import pickle
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from typing import Any

import measure_evaluation
import numpy as np
import torch
from equal_steps import SMALL
from generated_samples import generated_samples
from measure_evaluation import DETECTIONS, generated_images, joined_truth, memory_of_images
from tabulate import tabulate
from torch import nn

from mrcnn_zoo.benchmark.inputs import calibrate_random_weights
from mrcnn_zoo.benchmark.measure import peak_resident_mib, resident_mib
from mrcnn_zoo.config import load_config
from mrcnn_zoo.data.catalog import load_dataset
from mrcnn_zoo.data.loading.loader import build_train_loader
from mrcnn_zoo.distributed.processes import join_processes, leave_processes
from mrcnn_zoo.evaluation.backends import build_backend
from mrcnn_zoo.evaluation.class_parts import curves_by_parts
from mrcnn_zoo.evaluation.metrics.contract import Evaluated
from mrcnn_zoo.evaluation.result_rows import PackedRows, RowsOfImages
from mrcnn_zoo.modeling import build_model
from mrcnn_zoo.ops.memory import garbage_collection_paused
from mrcnn_zoo.structures import Sample
from mrcnn_zoo.training.reduction import LossReduction, with_averaged_gradients

CONFIG = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x"
MEBIBYTE = 2**20
REPEATS = 2
SMALL_IMAGE = (320, 448)  # of the curves on which the backbone has no part
Point = dict[str, float]  # a column -> seconds, or MiB


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modes", nargs="+", choices=[*CURVES, "paper", "all"])
    parser.add_argument("--folder", default="", help="images with annotations, whose loading `paper` measures")
    parser.add_argument("--points", type=int, help="measured points of each curve (default: all)")
    arguments = parser.parse_args()
    for mode in CURVES if "all" in arguments.modes else arguments.modes:
        if mode == "paper":
            print(paper())
            print(loaded(arguments.folder) if arguments.folder else "")
            continue
        measure, unit, values = CURVES[mode]
        points = []
        for value in values[: arguments.points]:
            points.append(measure(value) if measure is of_processes else in_own_process(measure, value))
            print(mode, value, points[-1], file=sys.stderr, flush=True)
        print(f"{mode}\n\n{table_of(unit, values, points)}\n", flush=True)


def in_own_process(measure: Callable[[int], Point], value: int) -> Point:
    """A point of a curve."""
    with multiprocessing.get_context("forkserver").Pool(1) as pool:
        return pool.apply(measure, (value,))


def table_of(unit: str, values: list[int], points: list[Point]) -> str:
    """The points as rows, and the exponent of each column."""
    columns = list(points[0])
    rows: list[list[Any]] = [
        [value, *(f"{point[name]:.3g}" for name in columns)] for value, point in zip(values, points, strict=False)
    ]
    exponents = [exponent(values[: len(points)], [point[name] for point in points]) for name in columns]
    return tabulate(
        [*rows, ["exponent", *(f"{slope:.2f}" for slope in exponents)]], [unit, *columns], tablefmt="github"
    )


def exponent(sizes: list[int], costs: list[float]) -> float:
    """The slope of the logarithm of the costs over that of the sizes."""
    if len(sizes) < 2 or min(costs) <= 0:
        return float("nan")
    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])


def repeated(run: Callable[[], object], *, watched: dict[str, tuple[Any, str]] | None = None) -> Point:
    """Processor seconds and peak memory of a call, and the seconds of methods in it.

    Args:
        run: the work.
        watched: column -> an object and the name of its method.
    """
    torch.set_num_threads(1)
    inner: dict[str, float] = {}
    for column, (owner, name) in (watched or {}).items():
        setattr(owner, name, _timed(getattr(owner, name), column, inner))
    before = resident_mib()
    run()
    memory = peak_resident_mib() - before
    rounds = []
    for _ in range(REPEATS):
        inner.clear()
        start = time.process_time()
        run()
        rounds.append({"s": time.process_time() - start, **inner})
    return {**min(rounds, key=lambda found: found["s"]), "MiB": memory}


def _timed(method: Callable[..., Any], column: str, seconds: dict[str, float]) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        start = time.process_time()
        result = method(*args, **kwargs)
        seconds[column] = seconds.get(column, 0) + time.process_time() - start
        return result

    return run


def built(overrides: tuple[Any, ...], samples: list[Sample]) -> nn.Module:
    """A Mask R-CNN R50-FPN in evaluation mode whose random weights find many instances."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    cfg = load_config(CONFIG, ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", *overrides])
    model = build_model(cfg).eval()
    calibrate_random_weights(model, samples)
    return model


def of_size(shortest: int) -> Point:
    """Inference on an image of 3 : 4."""
    samples = generated_samples(1, image_size=(shortest, shortest * 4 // 3), num_classes=80)
    model = built((), samples)
    watched = {"backbone, s": (model.backbone, "forward"), "heads, s": (model.roi_heads, "predict")}
    return repeated(lambda: model.predict(samples), watched=watched)


def of_proposals(count: int) -> Point:
    """RPN and region heads; all layers of full width."""
    samples = generated_samples(1, image_size=SMALL_IMAGE, num_classes=80)
    overrides = ("MODEL.RPN.PRE_NMS_TOPK_TEST", 2 * count, "MODEL.RPN.POST_NMS_TOPK_TEST", count)
    model = built((*overrides, "MODEL.RPN.NMS_THRESH", 0.95), samples)
    watched = {"RPN, s": (model.proposal_generator, "predict"), "heads, s": (model.roi_heads, "predict")}
    point = repeated(lambda: model.predict(samples), watched=watched)
    counted = len(
        model.proposal_generator.predict(model.backbone(model.collate(samples).pixels), model.collate(samples))[0]
    )
    return {"found": counted, **point}


def of_classes(count: int) -> Point:
    """Region heads at inference and in training, and evaluation of 200 images."""
    samples = generated_samples(1, image_size=SMALL_IMAGE, num_classes=count)
    model = built(("MODEL.ROI_HEADS.NUM_CLASSES", count), samples)
    found = repeated(lambda: model.predict(samples), watched={"heads, s": (model.roi_heads, "predict")})
    heads, model = found["heads, s"], model.train()
    losses = repeated(
        lambda: model.losses(samples).total().backward(), watched={"losses, s": (model.roi_heads, "losses")}
    )
    measure_evaluation.NUM_CLASSES = count
    seconds, _ = evaluated(200)
    return {
        **{"heads at inference, s": heads, "their MiB": found["MiB"]},
        **{"heads' losses, s": losses["losses, s"], "step, MiB": losses["MiB"], "evaluation, s": seconds},
    }


def of_objects(count: int) -> Point:
    """Losses of a narrow model without gradients: labels of anchors and regions, and targets of masks."""
    samples = generated_samples(1, image_size=(480, 640), num_classes=80, num_objects=count)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = build_model(load_config(CONFIG, SMALL)).train()
    labeler = model.proposal_generator.labeler
    with torch.no_grad():
        point = repeated(lambda: model.losses(samples), watched={"labels of anchors, s": (labeler, "sample")})
    measure_evaluation.OBJECTS = count
    measure_evaluation.DETECTIONS = max(count, 1)
    seconds, _ = evaluated(20)
    return {**point, "evaluation of 20 images with as many detections, s": seconds}


def evaluated(num_images: int) -> tuple[float, float]:
    """Processor seconds of box and mask AP, and the characters of the run lengths."""
    parts, kept, characters = [], {}, 0
    for truth, rows in generated_images(num_images):
        parts.append(truth)
        kept[truth["image"]["id"]] = PackedRows.of(rows)
        characters += sum(len(row["segmentation"]["counts"]) for row in rows)
    given = Evaluated(joined_truth(parts), RowsOfImages(kept), ("bbox", "segm"), "generated")
    start = time.process_time()
    with garbage_collection_paused():
        for task in ("bbox", "segm"):
            curves_by_parts(build_backend("auto"), given, task, (1, 10, 100))
    return time.process_time() - start, characters


def of_images(count: int) -> Point:
    """COCO evaluation of 100 detections per image."""
    os.environ.setdefault("RAYON_NUM_THREADS", "1")
    _, kept, peak = memory_of_images(count)
    return {"evaluation, s": evaluated(count)[0], "kept, MiB": kept, "evaluation above it, MiB": peak}


def of_processes(count: int) -> Point:
    """A training step of a narrow model with one image per process; gloo."""
    with tempfile.TemporaryDirectory() as folder:
        context = multiprocessing.get_context("forkserver")
        queue = context.Queue()
        workers = [context.Process(target=_train, args=(rank, count, folder, queue)) for rank in range(count)]
        for worker in workers:
            worker.start()
        found = [queue.get(timeout=600) for _ in workers]
        for worker in workers:
            worker.join()
    return {name: max(point[name] for point in found) for name in found[0]}


def _train(rank: int, count: int, folder: str, queue: Any) -> None:
    torch.set_num_threads(1)
    url = f"file://{folder}/rendezvous"
    join_processes(url, rank=rank, world_size=count, local_rank=rank, device_type="cpu")
    torch.manual_seed(0)
    model = with_averaged_gradients(build_model(load_config(CONFIG, SMALL)).train())
    samples = generated_samples(1, image_size=(480, 640), num_classes=80, seed=rank)
    reduction, steps = LossReduction(), []
    for _ in range(6):
        start = time.perf_counter(), time.process_time()
        reduction(model(samples), num_images=1).total().backward()
        steps.append((time.perf_counter() - start[0], time.process_time() - start[1]))
    elapsed, processor = np.min(steps[2:], axis=0)
    leave_processes()
    queue.put({"s elapsed": float(elapsed), "s of each processor": float(processor), "MiB": peak_resident_mib()})


def loaded(folder: str) -> str:
    """Processor seconds of an image of the training loader, without processes of its own."""
    torch.set_num_threads(1)
    cfg = load_config(CONFIG, ["DATALOADER.NUM_WORKERS", 0, "SOLVER.IMS_PER_BATCH", 8, "DATASETS.TRAIN", [folder]])
    batches = iter(build_train_loader(cfg, [load_dataset(cfg, folder)], seed=0))
    samples = next(batches)
    start = time.process_time()
    samples = [sample for batch in islice(batches, 4) for sample in batch]
    seconds = (time.process_time() - start) / len(samples)
    size = np.mean([sample.image.nbytes for sample in samples]) / MEBIBYTE
    return f"{1 / seconds:.1f} images/s on one core, {size:.1f} MiB of pixels each after resizing"


def paper() -> str:
    """Sizes from which the needs of 64 GPUs follow."""
    cfg = load_config(CONFIG, ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", ""])
    trained = sum(weight.numel() for weight in build_model(cfg).parameters() if weight.requires_grad)
    rows = []
    for processes in (2, 8, 64):
        sent = 2 * (processes - 1) / processes * 4 * trained
        rows.append([processes, f"{sent / MEBIBYTE:.0f}"])
    text = tabulate(rows, ["processes", "sent by each in a step, MiB"], tablefmt="github")
    images = 50
    run_lengths = evaluated(images)[1] / images
    pickled = len(
        pickle.dumps({number: PackedRows.of(rows) for number, (_, rows) in enumerate(generated_images(images))})
    )
    return (
        f"{trained:,} parameters with gradient, {4 * trained / MEBIBYTE:.0f} MiB in float32\n\n{text}\n\n"
        f"{DETECTIONS} detections of an image: {run_lengths:,.0f} bytes of run lengths, "
        f"{pickled / images:,.0f} gathered"
    )


CURVES: dict[str, tuple[Callable[[int], Point], str, list[int]]] = {
    "sizes": (of_size, "shortest side", [256, 400, 600, 800, 1000]),
    "objects": (of_objects, "objects", [1, 4, 16, 64, 256, 1024]),
    "proposals": (of_proposals, "proposals", [100, 300, 1000, 2000, 4000]),
    "classes": (of_classes, "classes", [80, 300, 1203]),
    "images": (of_images, "images", [125, 250, 500, 1000, 2000, 5000]),
    "processes": (of_processes, "processes", [1, 2]),
}

if __name__ == "__main__":
    main()

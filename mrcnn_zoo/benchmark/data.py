"""Speed of data loading and of COCO evaluation."""

import copy
import time
from itertools import islice
from typing import Any

import numpy as np

from mrcnn_zoo.benchmark.inputs import build_dataset
from mrcnn_zoo.benchmark.measure import Candidate, Timing, time_interleaved
from mrcnn_zoo.benchmark.report import BenchmarkReport, make_rows
from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.data.catalog import load_dataset
from mrcnn_zoo.data.loading.loader import build_train_loader
from mrcnn_zoo.data.records import Dataset
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.evaluation.backends import Backend, detection_set
from mrcnn_zoo.evaluation.ground_truth import BBOX, SEGM, coco_ground_truth, has_masks
from mrcnn_zoo.registries import AP_BACKENDS

WRONG_CLASS_SHARE = 0.2  # of the detections
REFERENCE_BACKEND = "pycocotools"
LIMITS = (1, 10, 100)  # detections per image, as in COCO
BOX_NOISE = 0.05  # standard deviation of a corner, relative to the side of the box


def benchmark_loading(cfg: CfgNode, images: str, *, num_batches: int, repeats: int) -> BenchmarkReport:
    """Throughput of the training loader after its processes have started.

    Args:
        cfg: of a training run.
        images: name of a dataset or path of a folder with annotations; empty for DATASETS.TRAIN.
        num_batches: of SOLVER.IMS_PER_BATCH images, per round.
        repeats: consecutive rounds.
    """
    names = [images] if images else list(cfg.DATASETS.TRAIN)
    if not names:
        raise UserError("no data to load: name a dataset with --images, or set DATASETS.TRAIN.")
    loader = build_train_loader(cfg, [load_dataset(cfg, name) for name in names], seed=0)
    start = time.perf_counter()
    batches = iter(loader)
    next(batches)
    seconds_to_first = time.perf_counter() - start

    def load() -> int:
        return sum(len(sample.targets or ()) for batch in islice(batches, num_batches) for sample in batch)

    timings = time_interleaved([Candidate("training loader", [load])], repeats=repeats)
    num_images = num_batches * cfg.SOLVER.IMS_PER_BATCH
    return BenchmarkReport(
        task="data",
        settings={
            "datasets": ", ".join(names),
            "num_workers": cfg.DATALOADER.NUM_WORKERS,
            "batch_size": cfg.SOLVER.IMS_PER_BATCH,
            "num_batches": num_batches,
            "repeats": repeats,
            "seconds to the first batch": round(seconds_to_first, 3),
        },
        rows=make_rows(timings, num_images=num_images),
        ratios={},
        notes=("'Produced' counts objects. No model runs beside the loader.",),
    )


def benchmark_evaluation(
    cfg: CfgNode, images: str, *, detections_per_image: int, repeats: int, backends: tuple[str, ...] = ()
) -> BenchmarkReport:
    """Seconds to compute the COCO metrics of boxes and masks with each backend.

    Args:
        cfg: configures the dataset.
        images: name of a dataset or path of a folder with annotations; empty for the first of DATASETS.TEST.
        detections_per_image: made from the ground truth: perturbed boxes, some wrong classes, random scores.
        repeats: measured rounds.
        backends: names in AP_BACKENDS; empty for all that are installed.
    """
    dataset = build_dataset(cfg, images)
    if not any(record.instances for record in dataset.records):
        raise UserError(f"{dataset.name} has no annotated objects, so there is nothing to evaluate against.")
    tasks = [BBOX, SEGM] if has_masks(dataset) else [BBOX]
    sets = {task: _synthetic_results(dataset, task, detections_per_image) for task in tasks}
    candidates, notes = [], []
    for name in backends or tuple(AP_BACKENDS.names()):
        work = EvaluationWork(AP_BACKENDS.get(name), sets)
        try:
            work.copy_sets()
            work.measure()
        except UserError as error:
            notes.append(str(error))
            continue
        candidates.append(Candidate(name, [work.measure], before=work.copy_sets))
    if not candidates:
        raise UserError("no backend to measure: " + " ".join(notes))
    timings = time_interleaved(candidates, repeats=repeats, warmup=0)
    return BenchmarkReport(
        task="eval",
        settings={
            "dataset": dataset.name,
            "images": len(dataset),
            "detections": timings[0].produced // len(tasks),
            "tasks": ", ".join(tasks),
            "repeats": repeats,
        },
        rows=make_rows(timings, num_images=len(dataset)),
        ratios=_ratios_to_reference(timings),
        notes=tuple(notes),
    )


class EvaluationWork:
    """One backend on copies of its inputs, because some backends change them.

    Args:
        backend: computes the metrics.
        sets: ground truth and detections by task.
    """

    def __init__(self, backend: Backend, sets: dict[str, tuple[dict[str, Any], dict[str, Any]]]) -> None:
        self._backend = backend
        self._sets = sets
        self._copies = sets

    def copy_sets(self) -> None:
        """Copy the inputs for the next measurement."""
        self._copies = copy.deepcopy(self._sets)

    def measure(self) -> int:
        """Compute all metrics; returns the number of detections, summed over tasks."""
        for task, (ground_truth, detections) in self._copies.items():
            self._backend(ground_truth, detections, task, LIMITS)
        return sum(len(detections["annotations"]) for _, detections in self._copies.values())


def _synthetic_results(dataset: Dataset, task: str, per_image: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Ground truth and perturbed detections in COCO's form."""
    rng = np.random.default_rng(0)
    ground_truth = coco_ground_truth(dataset, task)
    by_image: dict[int, list[dict[str, Any]]] = {record.image_id: [] for record in dataset.records}
    for annotation in ground_truth["annotations"]:
        by_image[annotation["image_id"]].append(annotation)
    rows = []
    for image_id, annotations in by_image.items():
        for number in range(per_image if annotations else 0):
            annotation = annotations[number % len(annotations)]
            row: dict[str, Any] = {key: annotation[key] for key in ("category_id", "segmentation") if key in annotation}
            if rng.random() < WRONG_CLASS_SHARE:
                row["category_id"] = int(rng.choice(dataset.category_ids))
            left, top, width, height = annotation["bbox"]
            moved = rng.normal(0, BOX_NOISE, 4) * (width, height, width, height)
            box = np.array([left, top, width, height]) + moved
            row |= {"image_id": image_id, "bbox": np.maximum(box, 1.0).tolist(), "score": float(rng.random())}
            rows.append(row)
    return ground_truth, detection_set(rows, ground_truth, task)


def _ratios_to_reference(timings: list[Timing]) -> dict[str, float]:
    reference = next((timing for timing in timings if timing.name == REFERENCE_BACKEND), timings[0])
    return {
        f"seconds, {timing.name} / {reference.name}": timing.median / reference.median
        for timing in timings
        if timing is not reference
    }

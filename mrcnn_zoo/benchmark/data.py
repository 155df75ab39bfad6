"""Images for benchmarks, and the speed of data loading and of COCO evaluation."""

import copy
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mrcnn_zoo.benchmark.measure import Contestant, Timing, time_in_turns
from mrcnn_zoo.benchmark.report import BenchmarkReport, make_rows
from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.config.rules import class_count
from mrcnn_zoo.data.catalog import load_dataset
from mrcnn_zoo.data.classes import check_num_classes
from mrcnn_zoo.data.formats.coco import find_coco_layout
from mrcnn_zoo.data.images.reading import FileImage
from mrcnn_zoo.data.loading.loader import build_train_loader
from mrcnn_zoo.data.loading.mapper import build_eval_mapper, build_validation_mapper
from mrcnn_zoo.data.records import Dataset, ImageRecord
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.evaluation.backends import Backend, detection_set
from mrcnn_zoo.evaluation.ground_truth import BBOX, SEGM, coco_ground_truth, has_masks
from mrcnn_zoo.inference.image_inputs import image_files
from mrcnn_zoo.registries import AP_BACKENDS
from mrcnn_zoo.structures import BoxedBitmaps, ImageSize, Sample, Targets

LARGEST_OBJECT = 0.5  # side of a generated object as a share of the image's shorter side
SMALLEST_OBJECT = 0.05


def generated_samples(
    count: int, *, image_size: ImageSize, num_classes: int, num_objects: int = 10, num_keypoints: int = 0, seed: int = 0
) -> list[Sample]:
    """Images of noise with coloured ellipses, in no need of files; the same for the same arguments on every machine.

    Args:
        count: images.
        image_size: (height, width) of all of them.
        num_classes: K; an object's class is random.
        num_objects: of each image.
        num_keypoints: J, placed inside each object and visible; 0 for targets without keypoints.
        seed: of the generator.
    """
    rng = np.random.default_rng(seed)
    samples = []
    for number in range(count):
        boxes = _random_boxes(rng, image_size, num_objects)
        bitmaps = np.stack([_ellipse(box, image_size) for box in boxes])
        image = rng.integers(0, 80, (3, *image_size), dtype=np.uint8)
        for bitmap in bitmaps:
            image[:, bitmap] += rng.integers(20, 170, (3, 1), dtype=np.uint8)
        targets = Targets(
            image_size,
            torch.from_numpy(boxes.astype(np.float32)),
            torch.from_numpy(rng.integers(0, num_classes, num_objects)),
            masks=BoxedBitmaps.from_full(bitmaps),
            keypoints=_keypoints_inside(rng, boxes, num_keypoints) if num_keypoints else None,
        )
        samples.append(Sample(torch.from_numpy(image), number, image_size, targets, file_name=f"generated {number}"))
    return samples


def build_batches(
    cfg: CfgNode, images: str, *, num_batches: int, batch_size: int, is_training: bool
) -> list[list[Sample]]:
    """Batches resized as for testing (INPUT.MIN_SIZE_TEST, MAX_SIZE_TEST), whose results count in that size.

    Args:
        cfg: says how images are loaded.
        images: a dataset's name or a folder; empty takes the first of DATASETS.TEST.
        num_batches: at least 1.
        batch_size: at least 1.
        is_training: take images with objects only, and load these too.

    Raises:
        UserError: no dataset, more classes to train on than the model has, or fewer images than asked for.
    """
    dataset = build_dataset(cfg, images)
    if is_training and len(dataset.class_names) > (class_count(cfg) or 0) > 0:
        check_num_classes(cfg, dataset)  # a label beyond the last class cannot be trained on, not even for its time
    records = tuple(record for record in dataset.records if not is_training or _is_trainable(record))
    needed = num_batches * batch_size
    if len(records) < needed:
        raise UserError(
            f"{dataset.name} has {len(records)} images{' with objects' if is_training else ''}, the benchmark needs "
            f"{needed} ({num_batches} batches of {batch_size}). Ask for fewer, or name more images."
        )
    mapper = build_validation_mapper(cfg, dataset) if is_training else build_eval_mapper(cfg)
    samples = [_in_its_own_size(mapper(record, np.random.default_rng(0))) for record in records[:needed]]
    return [samples[start : start + batch_size] for start in range(0, needed, batch_size)]


def build_dataset(cfg: CfgNode, images: str) -> Dataset:
    """The dataset of a name, of a COCO folder, or of a folder of images without annotations."""
    if not images:
        if not cfg.DATASETS.TEST:
            raise UserError("no images to measure on: name a dataset or a folder with --images, or set DATASETS.TEST.")
        return load_dataset(cfg, cfg.DATASETS.TEST[0])
    folder = Path(images)
    if folder.is_dir() and not _has_annotations(folder):
        return Dataset(images, tuple(_unlabelled(folder)), class_names=(), category_ids=())
    return load_dataset(cfg, images)


def _has_annotations(folder: Path) -> bool:
    try:
        find_coco_layout(folder)
    except UserError:
        return bool(list(folder.glob("*.json")))  # more than one: let the loader ask which
    return True


def _unlabelled(folder: Path) -> Iterator[ImageRecord]:
    for number, path in enumerate(image_files([folder]), start=1):
        source = FileImage(str(path))
        height, width = source.read().shape[:2]
        yield ImageRecord(image_id=number, source=source, image_size=(height, width))


def _is_trainable(record: ImageRecord) -> bool:
    return any(not instance.is_crowd and instance.segmentation is not None for instance in record.instances)


def _in_its_own_size(sample: Sample) -> Sample:
    """Both models report in the size they are given, so that neither scales masks to a size the other does not."""
    return replace(sample, original_size=sample.image_size)


def _random_boxes(rng: np.random.Generator, image_size: ImageSize, count: int) -> np.ndarray:
    """(R, 4) whole pixels inside the image."""
    shorter = min(image_size)
    sides = np.exp(rng.uniform(np.log(SMALLEST_OBJECT * shorter), np.log(LARGEST_OBJECT * shorter), (count, 2)))
    sides = np.ceil(sides) + 1
    starts = np.floor(rng.uniform(0, 1, (count, 2)) * (np.array(image_size[::-1]) - sides))
    return np.concatenate((starts, starts + sides), axis=1)


def _ellipse(box: np.ndarray, image_size: ImageSize) -> np.ndarray:
    """(H, W) bool, the pixels whose centres lie in the ellipse that fills the box."""
    rows, columns = np.ogrid[: image_size[0], : image_size[1]]
    (x, y), (radius_x, radius_y) = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2
    inside: np.ndarray = ((columns + 0.5 - x) / radius_x) ** 2 + ((rows + 0.5 - y) / radius_y) ** 2 <= 1
    return inside


def _keypoints_inside(rng: np.random.Generator, boxes: np.ndarray, count: int) -> Tensor:
    """(R, J, 3)."""
    shares = rng.uniform(0.1, 0.9, (len(boxes), count, 2))
    points = boxes[:, None, :2] + shares * (boxes[:, None, 2:] - boxes[:, None, :2])
    return torch.from_numpy(np.concatenate((points, np.full((len(boxes), count, 1), 2.0)), axis=2).astype(np.float32))


WRONG_CLASS_SHARE = 0.2  # of the detections
REFERENCE_BACKEND = "pycocotools"
LIMITS = (1, 10, 100)  # of detections an image, as COCO has them
BOX_NOISE = 0.05  # standard deviation of a corner, of the box's side


def benchmark_loading(cfg: CfgNode, images: str, *, num_batches: int, repeats: int) -> BenchmarkReport:
    """Images a second that the training loader delivers, once its processes run.

    Args:
        cfg: of a training run.
        images: a dataset's name or a COCO folder; empty takes DATASETS.TRAIN.
        num_batches: of SOLVER.IMS_PER_BATCH images, in one round.
        repeats: rounds; each goes on where the one before stopped.
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

    timings = time_in_turns([Contestant("training loader", [load])], repeats=repeats)
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
        notes=("Produced are objects. Nothing but this process waits for the batches: no model runs beside it.",),
    )


def benchmark_evaluation(
    cfg: CfgNode, images: str, *, detections_per_image: int, repeats: int, backends: tuple[str, ...] = ()
) -> BenchmarkReport:
    """Seconds to compute the COCO measures of boxes and masks, by each backend.

    Args:
        cfg: names the dataset, unless `images` does.
        images: a dataset's name or a COCO folder; empty takes the first of DATASETS.TEST.
        detections_per_image: made from the ground truth: moved boxes, some of a wrong class, random scores.
        repeats: rounds.
        backends: names in AP_BACKENDS; all of them when empty. One that is not installed is left out.
    """
    dataset = build_dataset(cfg, images)
    if not any(record.instances for record in dataset.records):
        raise UserError(f"{dataset.name} has no annotated objects, so there is nothing to evaluate against.")
    tasks = [BBOX, SEGM] if has_masks(dataset) else [BBOX]
    sets = {task: _made_up_results(dataset, task, detections_per_image) for task in tasks}
    contestants, notes = [], []
    for name in backends or tuple(AP_BACKENDS.names()):
        work = EvaluationWork(AP_BACKENDS.get(name), sets)
        try:
            work.copy_sets()
            work.measure()
        except UserError as error:
            notes.append(str(error))
            continue
        contestants.append(Contestant(name, [work.measure], before=work.copy_sets))
    if not contestants:
        raise UserError("no backend to measure: " + " ".join(notes))
    timings = time_in_turns(contestants, repeats=repeats, warmup=0)
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
    """One backend at work on copies: some of them change what they are given.

    Args:
        backend: computes the measures.
        sets: ground truth and detections by task.
    """

    def __init__(self, backend: Backend, sets: dict[str, tuple[dict[str, Any], dict[str, Any]]]) -> None:
        self._backend = backend
        self._sets = sets
        self._copies = sets

    def copy_sets(self) -> None:
        """Make fresh copies for the next measurement."""
        self._copies = copy.deepcopy(self._sets)

    def measure(self) -> int:
        """Compute everything; the number of detections, counted for each task."""
        for task, (ground_truth, detections) in self._copies.items():
            self._backend(ground_truth, detections, task, LIMITS)
        return sum(len(detections["annotations"]) for _, detections in self._copies.values())


def _made_up_results(dataset: Dataset, task: str, per_image: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Ground truth and detections in COCO's form."""
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

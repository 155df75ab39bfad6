"""COCO evaluation and run-length encoding of masks beside pycocotools and torchvision, on generated data.

python dev/measure_evaluation.py coco --images 5000 --rounds 3
python dev/measure_evaluation.py masks --rounds 5
python dev/measure_evaluation.py memory --images 1000 4000

`coco` evaluates 100 detections per image of 80 classes, boxes and masks separately, with pycocotools and with the
library of `--backend`: from lists of objects and detections to precision and recall. It prints the largest
difference of the precisions and recalls. `masks` encodes 100 masks of 28 x 28 probabilities on an image of 4000 x 3000
pixels: torchvision pastes them into bitmaps that pycocotools encodes; peak memory is that of a process of its own.
`memory` adds images to an evaluator and prints the resident memory per image beside the bytes of the run lengths.
All with one thread, in turns.
"""

import argparse
import contextlib
import io
import multiprocessing
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tabulate import tabulate
from torchvision.models.detection.roi_heads import paste_masks_in_image

from mrcnn_zoo.benchmark.measure import (
    Candidate,
    paired_ratio,
    peak_memory_mib,
    peak_resident_mib,
    resident_mib,
    time_interleaved,
)
from mrcnn_zoo.evaluation.backends import build_backend, detection_set
from mrcnn_zoo.evaluation.class_parts import curves_by_parts
from mrcnn_zoo.evaluation.metrics.contract import Evaluated
from mrcnn_zoo.evaluation.result_rows import PackedRows, RowsOfImages
from mrcnn_zoo.ops import rle
from mrcnn_zoo.ops.masks import MaskWindow
from mrcnn_zoo.ops.memory import garbage_collection_paused
from mrcnn_zoo.structures.masks import ProbabilityMasks

HEIGHT, WIDTH = 480, 640
NUM_CLASSES, OBJECTS, DETECTIONS = 80, 7.3, 100  # per image, as COCO
LARGE_IMAGE = (3000, 4000)
MEBIBYTE = 2**20


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=list(MEASUREMENTS))
    parser.add_argument("--images", nargs="+", type=int, default=[5000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--backend", default="hotcoco")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(MEASUREMENTS[arguments.what](arguments))


def measure_coco(arguments: argparse.Namespace) -> str:
    """Seconds of both libraries for boxes and masks, and how far their numbers are apart."""
    ground_truth, rows = generated_dataset(arguments.images[0])
    table = []
    for task in ("bbox", "segm"):
        found: dict[str, Any] = {}
        names = ("pycocotools", arguments.backend)
        candidates = [Candidate(name, [_evaluation(name, ground_truth, rows, task, found)]) for name in names]
        timings = time_interleaved(candidates, repeats=arguments.rounds, warmup=0)
        theirs, ours = (found[name] for name in names)
        difference = max(abs(ours.precision - theirs.precision).max(), abs(ours.recall - theirs.recall).max())
        seconds = [
            f"{timing.median:.1f} ({min(timing.seconds):.1f} to {max(timing.seconds):.1f})" for timing in timings
        ]
        precision = theirs.precision[:, :, :, 0, -1]
        ap = 100 * precision[precision >= 0].mean()
        ratio = paired_ratio(timings[0], timings[1])
        table.append([task, len(rows), *seconds, f"{ratio:.1f}", f"{difference:.1g}", f"{ap:.2f}"])
    headers = ["task", "detections", "pycocotools, s", f"{arguments.backend}, s", "ratio", "largest difference", "AP"]
    return tabulate(table, headers=headers, tablefmt="github")


def _evaluation(
    name: str, ground_truth: dict[str, Any], rows: list[dict[str, Any]], task: str, found: dict[str, Any]
) -> Callable[[], int]:
    """A step that evaluates the rows of a results file: by pycocotools as its users do, else by a backend."""
    # With boxes, pycocotools takes their areas for those of the masks.
    given = rows if task == "bbox" else [{key: row[key] for key in row if key != "bbox"} for row in rows]

    def run() -> int:
        if name == "pycocotools":
            with contextlib.redirect_stdout(io.StringIO()):
                truth = COCO()
                truth.dataset = ground_truth
                truth.createIndex()
                evaluation = COCOeval(truth, truth.loadRes(given), task)
                evaluation.evaluate()
                evaluation.accumulate()
            found[name] = SimpleNamespace(**evaluation.eval)
        else:
            with garbage_collection_paused():
                found[name] = build_backend(name)(
                    ground_truth, detection_set(rows, ground_truth, task), task, (1, 10, 100)
                )
        return len(rows)

    return run


def generated_dataset(num_images: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A COCO dataset, and the rows of all detections; see `generated_images`."""
    images = list(generated_images(num_images))
    return joined_truth([truth for truth, _ in images]), [row for _, rows in images for row in rows]


def joined_truth(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """The COCO dataset of several images."""
    annotations = [annotation for part in parts for annotation in part["annotations"]]
    return {
        "images": [part["image"] for part in parts],
        "annotations": [annotation | {"id": number} for number, annotation in enumerate(annotations, start=1)],
        "categories": [{"id": number, "name": str(number)} for number in range(1, NUM_CLASSES + 1)],
    }


def generated_images(num_images: int) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Ellipses, and 100 detections of each image: its objects moved and resized, and others.

    Args:
        num_images: of 480 x 640 pixels.
    """
    generator = np.random.default_rng(0)
    for image_id in range(1, num_images + 1):
        annotations, rows = [], []
        count = generator.poisson(OBJECTS)
        boxes, classes = random_boxes(generator, count), generator.integers(1, NUM_CLASSES + 1, count)
        for box, category, is_crowd in zip(boxes, classes, generator.random(count) < 0.01, strict=True):
            own = {"image_id": image_id, "category_id": int(category), "iscrowd": int(is_crowd)}
            annotations.append(_masked_box(box) | own)
        source = generator.integers(0, max(count, 1), DETECTIONS)
        is_moved = (generator.random(DETECTIONS) < 0.4) & (count > 0)
        found = random_boxes(generator, DETECTIONS)
        labels = generator.integers(1, NUM_CLASSES + 1, DETECTIONS)
        if count:
            near = boxes[source] + generator.normal(0, 0.08, (DETECTIONS, 4)) * np.tile(boxes[source, 2:], 2)
            found = np.where(is_moved[:, None], inside_image(near), found)
            labels = np.where(is_moved, classes[source], labels)
        scores = np.round(generator.beta(1, 4, DETECTIONS) + 0.3 * is_moved, 3)  # some are equal
        for box, label, score in zip(found, labels, scores, strict=True):
            row = _masked_box(box) | {"image_id": image_id, "category_id": int(label), "score": float(score)}
            del row["area"]
            rows.append(row)
        yield {"image": {"id": image_id, "height": HEIGHT, "width": WIDTH}, "annotations": annotations}, rows


def random_boxes(generator: np.random.Generator, count: int) -> NDArray[np.float64]:
    """(count, 4) x, y, width, height inside the image; sides between 4 and 300 pixels, evenly on a log scale."""
    sizes = np.exp(generator.uniform(np.log(4), np.log(300), (count, 2)))
    places = generator.random((count, 2)) * (np.array([WIDTH, HEIGHT]) - sizes)
    return np.concatenate((places, sizes), axis=1)


def inside_image(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """(R, 4) x, y, width, height cut at the borders of the image; at least two pixels wide and high."""
    limit = np.array([WIDTH, HEIGHT])
    low = np.clip(boxes[:, :2], 0, limit - 2)
    high = np.clip(boxes[:, :2] + boxes[:, 2:], low + 2, limit)
    return np.concatenate((low, high - low), axis=1)


def _masked_box(box: NDArray[np.float64]) -> dict[str, Any]:
    """The columns bbox, segmentation and area of the ellipse in a box."""
    x, y, width, height = box
    left, top = int(x), int(y)
    columns, rows = np.arange(left, min(int(np.ceil(x + width)), WIDTH)), np.arange(top, int(np.ceil(y + height)))
    rows = rows[rows < HEIGHT]
    across = ((columns + 0.5 - x - width / 2) / (width / 2)) ** 2
    down = ((rows + 0.5 - y - height / 2) / (height / 2)) ** 2
    window = MaskWindow(left, top, across[None] + down[:, None] <= 1.1)
    (encoded,) = rle.encode_windows([window], (HEIGHT, WIDTH))
    return {"bbox": box.tolist(), "segmentation": encoded, "area": float(rle.area(encoded))}


def measure_masks(arguments: argparse.Namespace) -> str:
    """Seconds and peak memory of 100 masks of a large image, from probabilities to run lengths."""
    masks = large_masks()
    encoded = {"torchvision and pycocotools": encode_bitmaps, "mrcnn_zoo": ProbabilityMasks.rles}
    candidates = [Candidate(name, [lambda run=run: len(run(masks))]) for name, run in encoded.items()]
    timings = time_interleaved(candidates, repeats=arguments.rounds)
    memory = [peak_memory_mib(prepare_encoding, name == "mrcnn_zoo") for name in encoded]
    theirs, ours = (run(masks) for run in encoded.values())
    differing = pixels = 0
    for one, other in zip(ours, theirs, strict=True):
        bitmap, expected = coco_mask.decode(one), coco_mask.decode(other)
        differing, pixels = differing + int((bitmap != expected).sum()), pixels + int(expected.sum())
    table = [
        [timing.name, f"{timing.median:.3f} ({min(timing.seconds):.3f} to {max(timing.seconds):.3f})", f"{peak:.0f}"]
        for timing, peak in zip(timings, memory, strict=True)
    ]
    table.append(["ratio", f"{paired_ratio(timings[0], timings[1]):.1f}", f"{memory[1] / memory[0]:.3f}"])
    text = tabulate(table, headers=["", "seconds", "peak memory, MiB"], tablefmt="github")
    return f"{text}\n{differing} of {pixels} mask pixels differ (torchvision pastes at rounded boxes)."


def large_masks() -> ProbabilityMasks:
    """100 soft discs in boxes of 30 to 1,200 pixels on an image of 4000 x 3000."""
    generator = np.random.default_rng(0)
    height, width = LARGE_IMAGE
    sizes = np.exp(generator.uniform(np.log(30), np.log(1200), (DETECTIONS, 2)))
    places = generator.random((DETECTIONS, 2)) * (np.array([width, height]) - sizes)
    boxes = torch.from_numpy(np.concatenate((places, places + sizes), axis=1)).float()
    grid = (torch.arange(28) - 13.5) / 14
    radius = (grid[:, None] ** 2 + grid**2).sqrt()
    noise = torch.from_numpy(generator.normal(0, 0.5, (DETECTIONS, 28, 28))).float()
    return ProbabilityMasks((6 * (0.8 - radius) + noise).sigmoid(), boxes, LARGE_IMAGE)


def encode_bitmaps(masks: ProbabilityMasks) -> list[rle.Rle]:
    """As torchvision: masks pasted into bitmaps of the image, then encoded by pycocotools."""
    pasted = paste_masks_in_image(masks.probabilities[:, None], masks.boxes, masks.image_size)
    bitmaps = (pasted[:, 0] > masks.threshold).numpy()
    return [rle.encode(bitmap) for bitmap in bitmaps]


def prepare_encoding(is_ours: bool) -> Callable[[], None]:
    """The work whose memory is measured.

    Args:
        is_ours: by this project, else by torchvision and pycocotools.
    """
    torch.set_num_threads(1)
    masks = large_masks()
    small = masks[:1]
    for run in (ProbabilityMasks.rles, encode_bitmaps):
        run(ProbabilityMasks(small.probabilities, small.boxes.clamp(max=50), (64, 64)))  # imports
    return lambda: (ProbabilityMasks.rles if is_ours else encode_bitmaps)(masks) and None


def measure_memory(arguments: argparse.Namespace) -> str:
    """Resident memory of the detections of a dataset, beside the characters of their run lengths, and of AP."""
    table = []
    for count in arguments.images:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            characters, kept, peak = pool.apply(memory_of_images, (count,))
        table.append([count, *(f"{value * 1024 / count:.1f}" for value in (characters, kept)), f"{peak:.0f}"])
    headers = ["images", "run lengths, KB per image", "kept, KB per image", "peak of the evaluation above it, MiB"]
    return tabulate(table, headers=headers, tablefmt="github")


def memory_of_images(num_images: int) -> tuple[float, float, float]:
    """MiB of the run lengths, of all that is kept of the detections, and of what mask AP adds to it at its peak.

    Args:
        num_images: with 100 masks each.
    """
    next(generated_images(1))
    parts, kept, characters, before = [], {}, 0, resident_mib()
    for truth, rows in generated_images(num_images):
        parts.append(truth)
        kept[truth["image"]["id"]] = PackedRows.of(rows)
        characters += sum(len(row["segmentation"]["counts"]) for row in rows)
    truth_mib = resident_mib()
    truth = joined_truth(parts)
    del parts
    evaluated = Evaluated(truth, RowsOfImages(kept), ("segm",), "generated")
    full = resident_mib()
    with garbage_collection_paused():
        curves_by_parts(build_backend("auto"), evaluated, "segm", (1, 10, 100))
    return characters / MEBIBYTE, truth_mib - before, peak_resident_mib() - full


MEASUREMENTS = {"coco": measure_coco, "masks": measure_masks, "memory": measure_memory}

if __name__ == "__main__":
    main()

"""Who matches detections to ground truth and counts: three libraries that agree on every number."""

import contextlib
import importlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mrcnn_zoo.errors import UserError
from mrcnn_zoo.ops import rle
from mrcnn_zoo.registries import AP_BACKENDS

IOU_THRESHOLDS = tuple(np.linspace(0.5, 0.95, 10))  # T
RECALL_THRESHOLDS = tuple(np.linspace(0.0, 1.0, 101))  # Q
AREAS = ("all", "small", "medium", "large")  # A: any area, below 32^2, up to 96^2, above, in square pixels
KEYPOINT_AREAS = ("all", "medium", "large")  # the points of small objects are not annotated
KEYPOINTS = "keypoints"  # the task whose overlap is the similarity of keypoints instead of IoU
OPTIONAL_PACKAGES = {"hotcoco": "hotcoco", "faster_coco_eval": "faster-coco-eval"}  # of backends, for pip


@dataclass(frozen=True)
class Curves:
    """Precision and recall of every class, area and limit; -1 where there is no ground truth to find.

    Shape letters: T thresholds of IoU, Q of recall, K classes, A areas, L limits of detections an image.
    """

    precision: NDArray[np.float64]  # (T, Q, K, A, L)
    recall: NDArray[np.float64]  # (T, K, A, L)
    limits: tuple[int, ...]  # L, ascending
    areas: tuple[str, ...] = AREAS  # A


class Backend(Protocol):
    """Measures the detections of one task; see `detection_set` for their form."""

    def __call__(
        self,
        ground_truth: dict[str, Any],
        detections: dict[str, Any],
        task: str,
        limits: Sequence[int],
        *,
        sigmas: Sequence[float] = (),
    ) -> Curves:
        """Precision and recall.

        Args:
            ground_truth: a COCO data set.
            detections: another one.
            task: bbox, segm or keypoints.
            limits: L, ascending numbers of detections an image.
            sigmas: for keypoints, how far annotators disagree about each, as a share of the object's size; empty takes
                those of COCO's 17.
        """
        ...


def areas_of(task: str) -> tuple[str, ...]:
    """The size classes that a task is measured in."""
    return KEYPOINT_AREAS if task == KEYPOINTS else AREAS


def detection_set(rows: Sequence[dict[str, Any]], ground_truth: dict[str, Any], task: str) -> dict[str, Any]:
    """Rows of a COCO results file as a COCO data set of their own, each with the area that decides its size class.

    That area is the box's for "bbox", the mask's for "segm", and that of the box around all points for "keypoints".
    Masks are ranked by their own score where the rows have a `mask_score`.
    """
    annotations = []
    for number, row in enumerate(rows, start=1):
        score = row["score"]
        if task == "segm":
            score = row.get("mask_score", score)
            area = float(rle.area(row["segmentation"]))
            measured = {"segmentation": dict(row["segmentation"]), "bbox": row["bbox"]}
        elif task == KEYPOINTS:
            x, y = row["keypoints"][0::3], row["keypoints"][1::3]
            area = (max(x) - min(x)) * (max(y) - min(y))
            around = [min(x), min(y), max(x) - min(x), max(y) - min(y)]
            measured = {"keypoints": row["keypoints"], "num_keypoints": len(x), "bbox": around}
        else:
            area = row["bbox"][2] * row["bbox"][3]
            measured = {"bbox": row["bbox"]}
        identity = {"id": number, "image_id": row["image_id"], "category_id": row["category_id"]}
        annotations.append(identity | measured | {"score": score, "area": area, "iscrowd": 0})
    return {"images": ground_truth["images"], "categories": ground_truth["categories"], "annotations": annotations}


@AP_BACKENDS.register("pycocotools")
def curves_by_pycocotools(
    ground_truth: dict[str, Any],
    detections: dict[str, Any],
    task: str,
    limits: Sequence[int],
    *,
    sigmas: Sequence[float] = (),
) -> Curves:
    """The reference implementation."""
    coco = importlib.import_module("pycocotools.coco")
    cocoeval = importlib.import_module("pycocotools.cocoeval")
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        sets = []
        for content in (ground_truth, detections):
            indexed = coco.COCO()
            indexed.dataset = content
            indexed.createIndex()
            sets.append(indexed)
        return _measure(cocoeval.COCOeval(*sets, task), _category_ids(ground_truth), limits, sigmas)


@AP_BACKENDS.register("hotcoco")
def curves_by_hotcoco(
    ground_truth: dict[str, Any],
    detections: dict[str, Any],
    task: str,
    limits: Sequence[int],
    *,
    sigmas: Sequence[float] = (),
) -> Curves:
    """What pycocotools computes, in Rust."""
    hotcoco = _import_backend("hotcoco")
    sets = _with_counted_ids(ground_truth, detections)
    evaluation = hotcoco.COCOeval(*(hotcoco.COCO(content) for content in sets), task)
    return _measure(evaluation, _category_ids(sets[0]), limits, sigmas)


@AP_BACKENDS.register("faster_coco_eval")
def curves_by_faster_coco_eval(
    ground_truth: dict[str, Any],
    detections: dict[str, Any],
    task: str,
    limits: Sequence[int],
    *,
    sigmas: Sequence[float] = (),
) -> Curves:
    """What pycocotools computes, in C++."""
    faster = _import_backend("faster_coco_eval")
    sets = _with_counted_ids(ground_truth, detections)
    evaluation = faster.COCOeval_faster(*map(faster.COCO, sets), task, print_function=_discard)
    return _measure(evaluation, _category_ids(sets[0]), limits, sigmas)


def _measure(evaluation: Any, categories: Sequence[int], limits: Sequence[int], sigmas: Sequence[float]) -> Curves:
    """Run an evaluation of any of the libraries; `categories` are the ids of the ground truth, ascending."""
    evaluation.params.maxDets = list(limits)
    if sigmas:
        evaluation.params.kpt_oks_sigmas = np.array(sigmas, dtype=np.float64)
    evaluation.evaluate()
    evaluation.accumulate()
    # faster_coco_eval leaves categories without ground truth out of the keypoint task; the others give them -1.
    measured = [categories.index(category) for category in evaluation.params.catIds]
    areas = tuple(evaluation.params.areaRngLbl)
    shape = (len(IOU_THRESHOLDS), len(RECALL_THRESHOLDS), len(measured), len(areas), len(limits))
    precision = np.full((*shape[:2], len(categories), *shape[3:]), -1.0)
    recall = np.full_like(precision[:, 0], -1.0)
    precision[:, :, measured] = np.asarray(evaluation.eval["precision"]).reshape(shape)
    recall[:, measured] = np.asarray(evaluation.eval["recall"]).reshape(shape[:1] + shape[2:])
    return Curves(precision=precision, recall=recall, limits=tuple(limits), areas=areas)


def _category_ids(ground_truth: dict[str, Any]) -> list[int]:
    return sorted(category["id"] for category in ground_truth["categories"])


def _with_counted_ids(ground_truth: dict[str, Any], detections: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    """Both sets with images and categories numbered from 1 in the order of their ids, where an id is below 0.

    The libraries other than pycocotools refuse such ids, and decide ties by the order.
    """
    orders = {name: sorted(item["id"] for item in ground_truth[name]) for name in ("images", "categories")}
    if all(not ids or ids[0] >= 0 for ids in orders.values()):
        return ground_truth, detections
    images, categories = ({old: new for new, old in enumerate(ids, start=1)} for ids in orders.values())
    return tuple(
        {
            "images": [image | {"id": images[image["id"]]} for image in content["images"]],
            "categories": [category | {"id": categories[category["id"]]} for category in content["categories"]],
            "annotations": [
                row | {"image_id": images[row["image_id"]], "category_id": categories[row["category_id"]]}
                for row in content["annotations"]
            ],
        }
        for content in (ground_truth, detections)
    )


def build_backend(name: str) -> Backend:
    """The backend of that name.

    Raises:
        UserError: an unknown one, or one whose library is not installed.
    """
    backend = AP_BACKENDS.get(name)
    if name in OPTIONAL_PACKAGES:
        _import_backend(name)
    return backend


def _import_backend(module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"EVAL.BACKEND is {module!r}, which is not installed ({error}). Install it with "
            f"`pip install {OPTIONAL_PACKAGES[module]}`, "
            f"or set EVAL.BACKEND to pycocotools."
        ) from error


def _discard(*_: object) -> None:
    pass

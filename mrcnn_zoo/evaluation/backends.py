"""Libraries that compute COCO's precision and recall; all give equal numbers."""

import contextlib
import importlib.util
import io
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from types import ModuleType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mrcnn_zoo.errors import UserError
from mrcnn_zoo.ops import rle
from mrcnn_zoo.ops.memory import garbage_collection_paused
from mrcnn_zoo.registries import AP_BACKENDS

IOU_THRESHOLDS = tuple(np.linspace(0.5, 0.95, 10))  # T
RECALL_THRESHOLDS = tuple(np.linspace(0.0, 1.0, 101))  # Q
AREAS = ("all", "small", "medium", "large")  # A size classes
MEDIUM_SIDE, LARGE_SIDE = 32.0, 96.0  # pixels, square roots of the areas between small, medium and large objects
KEYPOINT_AREAS = ("all", "medium", "large")  # COCO does not annotate keypoints of small objects
ALL_SIZES = [0.0, 1e10]  # square pixels
KEYPOINTS = "keypoints"  # the task that uses object keypoint similarity (OKS) instead of IoU
MANY_DETECTIONS = 100_000
OPTIONAL_PACKAGES = {"hotcoco": "hotcoco", "faster_coco_eval": "faster-coco-eval"}  # package by backend

log_once = cache(logging.getLogger(__name__).info)


@dataclass(frozen=True)
class Matches:
    """Detections of some classes in descending order of score; ignored ones, such as those on crowds, are left out."""

    scores: NDArray[np.float64]  # (R,)
    is_true: NDArray[np.bool_]  # (R,) whether an object of the class matches
    num_objects: int

    @staticmethod
    def joined(parts: Sequence["Matches"]) -> "Matches":
        """The matches of several images or classes.

        Args:
            parts: in the order that ranks equal scores.
        """
        scores = np.concatenate([np.zeros(0), *(part.scores for part in parts)])
        is_true = np.concatenate([np.zeros(0, dtype=bool), *(part.is_true for part in parts)])
        order = np.argsort(-scores, kind="stable")
        return Matches(scores[order], is_true[order], sum(part.num_objects for part in parts))


@dataclass(frozen=True)
class Curves:
    """Precision and recall per class, size class and limit; -1 without ground truth.

    Shape letters: T IoU thresholds, Q recall thresholds, K classes, A size classes, L limits of detections per image.
    """

    precision: NDArray[np.float64]  # (T, Q, K, A, L)
    recall: NDArray[np.float64]  # (T, K, A, L)
    limits: tuple[int, ...]  # L, ascending
    areas: tuple[str, ...] = AREAS  # A
    find_matches: Callable[[], Mapping[int, Matches]] | None = None  # None where the library hides them

    @cached_property
    def matches(self) -> Mapping[int, Matches] | None:
        """The matches at IoU 0.5 by category id; None where the library hides them."""
        return None if self.find_matches is None else self.find_matches()


class Backend(Protocol):
    """Computes precision and recall of one task."""

    def __call__(
        self,
        ground_truth: dict[str, Any],
        detections: dict[str, Any],
        task: str,
        limits: Sequence[int],
        *,
        sigmas: Sequence[float] = (),
    ) -> Curves:
        """Precision and recall of detections.

        Args:
            ground_truth: a COCO dataset, see `coco_ground_truth`.
            detections: a COCO dataset with scores, see `detection_set`.
            task: "bbox", "segm" or "keypoints".
            limits: (L,) maximum numbers of detections per image, ascending.
            sigmas: of each keypoint, the standard deviation of its annotations relative to the size of the object;
                empty for those of COCO's 17 keypoints.
        """
        ...


def areas_of(task: str) -> tuple[str, ...]:
    """Size classes of a task.

    Args:
        task: "bbox", "segm" or "keypoints".
    """
    return KEYPOINT_AREAS if task == KEYPOINTS else AREAS


def detection_set(rows: Sequence[dict[str, Any]], ground_truth: dict[str, Any], task: str) -> dict[str, Any]:
    """Convert rows of a COCO results file to a COCO dataset.

    The area, which gives the size class, is that of the box for "bbox", of the mask for "segm", and of the box around
    all keypoints for "keypoints". Masks are ranked by `mask_score` if the rows have it.

    Args:
        rows: detections, see `CocoEvaluator`.
        ground_truth: the COCO dataset with the images and categories.
        task: "bbox", "segm" or "keypoints".
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
    """The reference implementation; see `Backend`."""
    with pycocotools_evaluation(ground_truth, detections, task) as evaluation:
        curves = _measure(evaluation, _category_ids(ground_truth), limits, sigmas)
    return curves if task == KEYPOINTS else replace(curves, find_matches=partial(matches_of_evaluation, evaluation))


@contextlib.contextmanager
def pycocotools_evaluation(ground_truth: Mapping[str, Any], detections: Mapping[str, Any], task: str) -> Iterator[Any]:
    """A `COCOeval` of pycocotools; inside the context its progress is not printed.

    Args:
        ground_truth: a COCO dataset.
        detections: a COCO dataset with scores, see `detection_set`.
        task: "bbox", "segm" or "keypoints".
    """
    coco = importlib.import_module("pycocotools.coco")
    cocoeval = importlib.import_module("pycocotools.cocoeval")
    with contextlib.redirect_stdout(io.StringIO()):
        sets = []
        for content in (ground_truth, detections):
            indexed = coco.COCO()
            indexed.dataset = content
            indexed.createIndex()
            sets.append(indexed)
        yield cocoeval.COCOeval(*sets, task)


def matches_of_evaluation(evaluation: Any) -> dict[int, Matches]:
    """The matches at the first IoU for objects of the first range of sizes, by category id.

    Args:
        evaluation: a `COCOeval` of pycocotools or hotcoco after `evaluate()`.
    """
    params = evaluation.params
    scores: dict[int, list[float]] = {category: [] for category in params.catIds}
    is_true: dict[int, list[bool]] = {category: [] for category in params.catIds}
    counts: dict[int, list[bool]] = {category: [] for category in params.catIds}
    num_objects = dict.fromkeys(params.catIds, 0)
    area = list(params.areaRng[0])
    with garbage_collection_paused():
        for image in evaluation.evalImgs:  # hotcoco leaves out those that pycocotools has as None
            if image is None or list(image["aRng"]) != area:
                continue
            category = image["category_id"]
            scores[category].extend(image["dtScores"])
            is_true[category].extend([match > 0 for match in image["dtMatches"][0]])
            counts[category].extend([not ignored for ignored in image["dtIgnore"][0]])
            num_objects[category] += len(image["gtIgnore"]) - int(sum(image["gtIgnore"]))
    found = {}
    for category in params.catIds:
        is_counted = np.array(counts[category], dtype=bool)
        ranked = np.array(scores[category], dtype=np.float64)[is_counted]
        found[category] = Matches.joined(
            [Matches(ranked, np.array(is_true[category], dtype=bool)[is_counted], num_objects[category])]
        )
    return found


@AP_BACKENDS.register("hotcoco")
def curves_by_hotcoco(
    ground_truth: dict[str, Any],
    detections: dict[str, Any],
    task: str,
    limits: Sequence[int],
    *,
    sigmas: Sequence[float] = (),
) -> Curves:
    """The numbers of pycocotools, computed in Rust; see `Backend`."""
    hotcoco = _import_backend("hotcoco")
    sets = with_positive_ids(ground_truth, detections)
    indexed = [hotcoco.COCO(content) for content in sets]
    curves = _measure(hotcoco.COCOeval(*indexed, task), _category_ids(sets[0]), limits, sigmas)
    if task == KEYPOINTS:
        return curves
    ids = dict(zip(_category_ids(sets[0]), _category_ids(ground_truth), strict=True))

    def find_matches() -> dict[int, Matches]:
        # Of one IoU and all sizes: the Python objects of all matches would take gigabytes on COCO.
        evaluation = hotcoco.COCOeval(*indexed, task)
        evaluation.params.iouThrs = [IOU_THRESHOLDS[0]]
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [ALL_SIZES], [AREAS[0]]
        evaluation.params.maxDets = [limits[-1]]
        evaluation.evaluate()
        return {ids[category]: found for category, found in matches_of_evaluation(evaluation).items()}

    return replace(curves, find_matches=find_matches)


@AP_BACKENDS.register("faster_coco_eval")
def curves_by_faster_coco_eval(
    ground_truth: dict[str, Any],
    detections: dict[str, Any],
    task: str,
    limits: Sequence[int],
    *,
    sigmas: Sequence[float] = (),
) -> Curves:
    """The numbers of pycocotools, computed in C++; see `Backend`."""
    faster = _import_backend("faster_coco_eval")
    sets = with_positive_ids(ground_truth, detections)
    evaluation = faster.COCOeval_faster(*map(faster.COCO, sets), task, print_function=_discard)
    return _measure(evaluation, _category_ids(sets[0]), limits, sigmas)


@AP_BACKENDS.register("auto")
def curves_by_installed_library(
    ground_truth: dict[str, Any],
    detections: dict[str, Any],
    task: str,
    limits: Sequence[int],
    *,
    sigmas: Sequence[float] = (),
) -> Curves:
    """hotcoco where it is installed, else pycocotools; see `Backend`."""
    has_hotcoco = importlib.util.find_spec("hotcoco") is not None
    if not has_hotcoco and len(detections["annotations"]) > MANY_DETECTIONS:
        log_once('hotcoco would evaluate this many detections at least ten times faster: pip install "mrcnn_zoo[eval]"')
    compute = curves_by_hotcoco if has_hotcoco else curves_by_pycocotools
    return compute(ground_truth, detections, task, limits, sigmas=sigmas)


def _measure(evaluation: Any, categories: Sequence[int], limits: Sequence[int], sigmas: Sequence[float]) -> Curves:
    """Run the evaluation of a library; `categories` are the ids of the ground truth, ascending."""
    evaluation.params.maxDets = list(limits)
    if sigmas:
        evaluation.params.kpt_oks_sigmas = np.array(sigmas, dtype=np.float64)
    evaluation.evaluate()
    evaluation.accumulate()
    # faster_coco_eval omits categories without ground truth from the keypoint task; the others give -1.
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


def with_positive_ids(ground_truth: dict[str, Any], detections: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    """Renumber images and categories from 1, in the order of their ids, if an id is negative.

    Libraries other than pycocotools refuse negative ids; the order of ids decides ties.

    Args:
        ground_truth: a COCO dataset.
        detections: a COCO dataset of the same images and categories.
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
    """The backend of EVAL.BACKEND.

    Args:
        name: one of AP_BACKENDS.

    Raises:
        UserError: the name is unknown or the library is not installed.
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

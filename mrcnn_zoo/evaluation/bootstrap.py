"""COCO's matches per image, and resamples of images: the AP of a resample needs no second matching.

`resampled_ap.py` computes the AP.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from mrcnn_zoo.evaluation.backends import IOU_THRESHOLDS, areas_of, pycocotools_evaluation
from mrcnn_zoo.output_files import write_arrays

IMAGES_PER_PART = 200  # matched at a time: pycocotools keeps several hundred bytes per detection
THRESHOLD_BITS = 1 << np.arange(len(IOU_THRESHOLDS), dtype=np.uint16)
FORMAT, ORIGIN = 1, "origin"  # of the files

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class ImageMatches:
    """What COCO's evaluation of one task keeps of each detection and object: about 26 bytes per detection.

    Shape letters: N images, K classes, A size classes, D detections, G objects. Bit t of a flag is that of IoU
    threshold t.

    Args:
        image_ids: (N,) ascending, as in pycocotools.
        groups: (N,) texts: images of equal groups are drawn together; of images alone, their ids.
        class_names: (K,).
        areas: (A,) names of the size classes, "all" first.
        images: (D,) int32 rows of `image_ids`. Detections are sorted by class, and within by descending score; equal
            scores by image, and within an image as in pycocotools.
        classes: (D,) int32.
        scores: (D,) float64.
        matched: (A, D) uint16 flags: matched with an object.
        ignored: (A, D) uint16 flags: neither true nor false, for example inside a crowd.
        object_images: (G,) int32.
        object_classes: (G,) int32, ascending.
        is_counted: (A, G) bool: objects of a size class, without crowds.
    """

    image_ids: NDArray[Any]
    groups: NDArray[np.str_]
    class_names: tuple[str, ...]
    areas: tuple[str, ...]
    images: NDArray[np.int32]
    classes: NDArray[np.int32]
    scores: NDArray[np.float64]
    matched: NDArray[np.uint16]
    ignored: NDArray[np.uint16]
    object_images: NDArray[np.int32]
    object_classes: NDArray[np.int32]
    is_counted: NDArray[np.bool_]

    def __len__(self) -> int:
        """N, the number of images."""
        return len(self.image_ids)

    @property
    def num_groups(self) -> int:
        """Number of groups that are drawn: N of images alone."""
        return len(np.unique(self.groups))

    def save(self, path: Path, *, origin: str = "") -> Path:
        """Write an .npz file.

        Args:
            path: of the file.
            origin: fingerprint of what the matches were computed from, which `load` compares.
        """
        names = {"class_names": np.array(self.class_names), "areas": np.array(self.areas)}
        return save_arrays(path, {name: getattr(self, name) for name in ARRAYS} | names, origin=origin)

    @classmethod
    def load(cls, path: Path, *, origin: str = "") -> ImageMatches | None:
        """Read a file of `save`; see `load_arrays`.

        Args:
            path: of the file.
            origin: see `save`.
        """
        arrays = load_arrays(path, origin=origin)
        if arrays is None:
            return None
        class_names, areas = (tuple(arrays[name].tolist()) for name in ("class_names", "areas"))
        return cls(class_names=class_names, areas=areas, **{name: arrays[name] for name in ARRAYS})


ARRAYS = (
    "image_ids",
    "groups",
    "images",
    "classes",
    "scores",
    "matched",
    "ignored",
    "object_images",
    "object_classes",
    "is_counted",
)


def match_images(
    ground_truth: Mapping[str, Any],
    detections: Mapping[str, Any],
    task: str,
    *,
    max_detections: int = 100,
    sigmas: Sequence[float] = (),
    groups: Mapping[Any, str] | None = None,
) -> ImageMatches:
    """Match the detections of each image as pycocotools does.

    Args:
        ground_truth: a COCO dataset, see `mrcnn_zoo.evaluation.ground_truth.ground_truth_of_task`.
        detections: a COCO dataset with scores, see `mrcnn_zoo.evaluation.backends.detection_set`.
        task: "bbox", "segm" or "keypoints".
        max_detections: per image and class, in descending order of score.
        sigmas: of the keypoints, see `mrcnn_zoo.evaluation.backends.Backend`.
        groups: of each image id, e.g. its slide; None draws images alone.
    """
    image_ids = np.unique([image["id"] for image in ground_truth["images"]])
    category_ids = [category["id"] for category in ground_truth["categories"]]
    areas = areas_of(task)
    rows = _MatchRows(
        {image_id: row for row, image_id in enumerate(image_ids.tolist())},
        {category_id: row for row, category_id in enumerate(category_ids)},
        num_areas=len(areas),
    )
    for start in range(0, len(image_ids), IMAGES_PER_PART):
        part = image_ids[start : start + IMAGES_PER_PART].tolist()
        for results in _evaluated_images(ground_truth, detections, task, part, max_detections, sigmas):
            rows.add(results)
    names = tuple(category["name"] for category in ground_truth["categories"])
    of_images = np.array([str(image_id if groups is None else groups[image_id]) for image_id in image_ids.tolist()])
    return _sorted(rows.arrays(), image_ids=image_ids, groups=of_images, class_names=names, areas=areas)


def _evaluated_images(
    ground_truth: Mapping[str, Any],
    detections: Mapping[str, Any],
    task: str,
    image_ids: Sequence[Any],
    max_detections: int,
    sigmas: Sequence[float],
) -> Iterator[list[dict[str, Any]]]:
    """`evalImgs` of pycocotools per image and class: a result per size class."""
    chosen = set(image_ids)
    truth, found = (
        {
            "images": [image for image in content["images"] if image["id"] in chosen],
            "categories": content["categories"],
            "annotations": [row for row in content["annotations"] if row["image_id"] in chosen],
        }
        for content in (ground_truth, detections)
    )
    with pycocotools_evaluation(truth, found, task) as evaluation:
        evaluation.params.maxDets = [max_detections]
        if sigmas:
            evaluation.params.kpt_oks_sigmas = np.array(sigmas, dtype=np.float64)
        evaluation.evaluate()
    params = evaluation.params
    num_areas, num_images = len(params.areaRng), len(params.imgIds)
    for class_row in range(len(params.catIds)):
        first = class_row * num_areas * num_images
        for image_row in range(num_images):
            results = [evaluation.evalImgs[first + area * num_images + image_row] for area in range(num_areas)]
            if results[0] is not None:
                yield results


class _MatchRows:
    """Collects the matches of images, in parts per image and class."""

    def __init__(self, image_rows: dict[Hashable, int], class_rows: dict[int, int], *, num_areas: int) -> None:
        self._image_rows, self._class_rows = image_rows, class_rows
        self._detections: list[tuple[int, int, list[float]]] = []
        self._objects: list[tuple[int, int, int]] = []
        self._flags: dict[str, list[NDArray[Any]]] = {
            "matched": [np.zeros((num_areas, 0), np.uint16)],
            "ignored": [np.zeros((num_areas, 0), np.uint16)],
            "is_counted": [np.zeros((num_areas, 0), np.bool_)],
        }

    def add(self, results: Sequence[Mapping[str, Any]]) -> None:
        """Add an image and class; `results` has an entry of `evalImgs` per size class."""
        first = results[0]
        image, category = self._image_rows[first["image_id"]], self._class_rows[first["category_id"]]
        if first["dtIds"]:
            self._detections.append((image, category, list(first["dtScores"])))
            matches = np.array([result["dtMatches"] for result in results]) != 0  # (A, T, D)
            ignored = np.array([result["dtIgnore"] for result in results]).astype(bool)
            for name, bits in (("matched", matches), ("ignored", ignored)):
                self._flags[name].append((bits * THRESHOLD_BITS[:, None]).sum(axis=1, dtype=np.uint16))
        # pycocotools sorts the objects of each size class by whether they are ignored; their ids identify them.
        places = {identity: place for place, identity in enumerate(first["gtIds"])}
        if places:
            counted = np.zeros((len(results), len(places)), dtype=np.bool_)
            for area, result in enumerate(results):
                order = [places[identity] for identity in result["gtIds"]]
                counted[area, order] = ~np.asarray(result["gtIgnore"], dtype=bool)
            self._objects.append((image, category, len(places)))
            self._flags["is_counted"].append(counted)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays of `ImageMatches` that have a row per detection or object, unsorted."""
        lengths = [len(scores) for _, _, scores in self._detections]
        objects = np.array(self._objects, dtype=np.int64).reshape(-1, 3)
        arrays: dict[str, NDArray[Any]] = {
            "images": np.repeat([image for image, _, _ in self._detections], lengths).astype(np.int32),
            "classes": np.repeat([category for _, category, _ in self._detections], lengths).astype(np.int32),
            "scores": np.array([score for _, _, scores in self._detections for score in scores], dtype=np.float64),
            "object_images": np.repeat(objects[:, 0], objects[:, 2]).astype(np.int32),
            "object_classes": np.repeat(objects[:, 1], objects[:, 2]).astype(np.int32),
        }
        return arrays | {name: np.concatenate(parts, axis=1) for name, parts in self._flags.items()}


def _sorted(
    arrays: Mapping[str, NDArray[Any]],
    *,
    image_ids: NDArray[Any],
    groups: NDArray[np.str_],
    class_names: tuple[str, ...],
    areas: tuple[str, ...],
) -> ImageMatches:
    """Sort detections by class, score and image, keeping the order within an image; objects by class."""
    # lexsort is stable: detections of an image stay in descending order of score, with pycocotools' order of ties.
    order = np.lexsort((arrays["images"], -arrays["scores"], arrays["classes"]))
    of_objects = np.argsort(arrays["object_classes"], kind="stable")
    orders = {"images": order, "classes": order, "scores": order, "matched": order, "ignored": order}
    orders |= dict.fromkeys(("object_images", "object_classes", "is_counted"), of_objects)
    return ImageMatches(
        image_ids=image_ids,
        groups=groups,
        class_names=class_names,
        areas=areas,
        **{name: array[..., orders[name]] for name, array in arrays.items()},
    )


def save_arrays(path: Path, arrays: Mapping[str, NDArray[Any]], *, origin: str) -> Path:
    """Write arrays that `load_arrays` reads for equal origins alone.

    Args:
        path: of the .npz file.
        arrays: by name.
        origin: of what they were computed from.
    """
    return write_arrays(path, {**arrays, ORIGIN: np.array(f"{FORMAT} {origin}")})


def load_arrays(path: Path, *, origin: str) -> dict[str, NDArray[Any]] | None:
    """Read a file of `save_arrays`; None if there is none, it is damaged, or its origin is another.

    Args:
        path: of the file.
        origin: see `save_arrays`.
    """
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            return {name: file[name] for name in file.files} if str(file[ORIGIN]) == f"{FORMAT} {origin}" else None
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return None


def matches_file(rows_file: Path, task: str) -> Path:
    """The file in which the matches of an evaluation are kept, beside its detections.

    Args:
        rows_file: coco_instances_results.json.
        task: "bbox", "segm" or "keypoints".
    """
    return rows_file.with_name(f"image_matches_{task}.npz")


def origin_of(path: Path) -> str:
    """Size and time of a file, the `origin` of matches computed from it.

    Args:
        path: of coco_instances_results.json.

    Raises:
        OSError: there is no such file.
    """
    status = path.stat()
    return f"{status.st_size} {status.st_mtime_ns}"


def pool_matches(parts: Sequence[ImageMatches]) -> ImageMatches:
    """The matches of several disjoint sets of images as one set, for example of the held-out images of all folds.

    Args:
        parts: with the same classes and size classes; detections are ranked together by their scores.

    Raises:
        ValueError: classes differ, or an image is in two parts.
    """
    first = parts[0]
    if any((part.class_names, part.areas) != (first.class_names, first.areas) for part in parts):
        raise ValueError("matches of different classes or tasks cannot be pooled")
    all_ids = np.concatenate([part.image_ids for part in parts])
    image_ids, places, new_rows = np.unique(all_ids, return_index=True, return_inverse=True)
    if len(image_ids) < len(all_ids):
        raise ValueError(f"{len(all_ids) - len(image_ids)} images are in more than one part")
    names = [name for name in ARRAYS if name not in ("image_ids", "groups")]
    groups = np.concatenate([part.groups for part in parts])[places]
    arrays = {name: np.concatenate([getattr(part, name) for part in parts], axis=-1) for name in names}
    starts = np.cumsum([0, *map(len, parts[:-1])])
    for name in ("images", "object_images"):
        shifted = [getattr(part, name) + start for part, start in zip(parts, starts, strict=True)]
        arrays[name] = new_rows[np.concatenate(shifted)].astype(np.int32)
    return _sorted(arrays, image_ids=image_ids, groups=groups, class_names=first.class_names, areas=first.areas)

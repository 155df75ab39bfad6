"""Average recall of proposals, and computation of proposals to store."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from torch import nn

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.data.proposals import StoredProposals
from mrcnn_zoo.data.records import Dataset, ImageRecord
from mrcnn_zoo.distributed.processes import gather_on_main_process, results_of_main_process
from mrcnn_zoo.errors import UserError, counted
from mrcnn_zoo.evaluation.backends import AREAS, IOU_THRESHOLDS
from mrcnn_zoo.evaluation.ground_truth import BBOX, coco_ground_truth
from mrcnn_zoo.evaluation.tables import Metrics, Results, footnote, markdown_report, summary_table
from mrcnn_zoo.inference.predictor import inference
from mrcnn_zoo.modeling.contracts import ProposesRegions
from mrcnn_zoo.output_files import nan_as_null, write_json, write_text
from mrcnn_zoo.registries import EVALUATORS
from mrcnn_zoo.structures import Detections, Sample

BOX_PROPOSALS = "box_proposals"
LIMITS = (100, 1000)  # L maximum numbers of proposals per image
AREA_BOUNDS = ((0.0, 1e10), (0.0, 32.0**2), (32.0**2, 96.0**2), (96.0**2, 1e10))  # of AREAS, square pixels, inclusive
NO_MATCH = -1.0

logger = logging.getLogger(__name__)


def compute_proposals(model: nn.Module, loader: Iterable[list[Sample]]) -> dict[int | str, StoredProposals]:
    """Proposals by image id, in pixels of the image file, in descending order of objectness.

    Args:
        model: a detector with proposals, see `ProposesRegions`.
        loader: batches of images.

    Raises:
        UserError: the model has no proposals.
    """
    if not isinstance(model, ProposesRegions):
        raise UserError(
            f"{type(model).__name__} has no proposals: use a ProposalNetwork or a GeneralizedRCNN "
            "(MODEL.META_ARCHITECTURE)."
        )
    stored: dict[int | str, StoredProposals] = {}
    with inference(model):
        for samples in loader:
            for sample, table in zip(samples, model.propose(samples), strict=True):
                boxes, objectness = (
                    column.cpu().numpy().astype(np.float32) for column in (table.boxes, table.objectness)
                )
                stored[sample.image_id] = StoredProposals(boxes, objectness)
    return stored


@dataclass(frozen=True)
class RecallCounts:
    """Counts of one image; A size classes, T thresholds, L limits as in `backends`."""

    found: NDArray[np.int64]  # (A, T, L) found objects
    objects: NDArray[np.int64]  # (A,) all objects


class ProposalEvaluator:
    """Average recall of class-agnostic boxes at 100 and 1000 per image, over IoU thresholds from 0.5 to 0.95.

    The numbers are those of pycocotools with `useCats` 0: at each threshold, boxes in descending order of score take
    the unmatched object of highest IoU; crowds are excluded. Detectron2 matches pairs in descending order of IoU
    instead, independent of the score, which gives slightly different numbers.

    Source: Hosang et al. 2015 (What Makes for Effective Detection Proposals?); the COCO API.

    Args:
        dataset: the ground truth.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._records = {record.image_id: record for record in dataset.records}
        self._recalled: dict[int | str, RecallCounts] = {}
        self._previous: Results = {}

    def show_changes_to(self, previous: Results) -> None:
        """Show the change of the first recall in the logged table.

        Args:
            previous: results of an earlier evaluation.
        """
        self._previous = previous

    def metric_names(self) -> list[str]:
        """Names of the results of `evaluate`, such as "box_proposals/AR@100"."""
        return [f"{BOX_PROPOSALS}/{name}" for name in recall_metric_names()]

    def process(self, samples: Sequence[Sample], detections: Sequence[Detections]) -> None:
        """Count the objects that the boxes of some images find; images that were added before are ignored.

        Args:
            samples: N images of the dataset.
            detections: per image, in pixels of the original image, best first; classes and scores are not used.

        Raises:
            ValueError: an image is not in the dataset.
        """
        for sample, found in zip(samples, detections, strict=True):
            if sample.image_id not in self._records:
                raise ValueError(
                    f"image {sample.image_id} is not one of the {len(self._dataset)} of {self._dataset.name}"
                )
            if sample.image_id not in self._recalled:
                boxes = found.boxes.detach().cpu().double().numpy()
                self._recalled[sample.image_id] = self._recall(self._records[sample.image_id], boxes)  # type: ignore[index]

    def evaluate(self, output_dir: str | Path | None = None) -> Results:
        """{"box_proposals": {"AR@100", "ARs@100", ..., "AR@1000", ...}} in percent, on every process.

        Args:
            output_dir: folder of `inference/`, with results.json and results.md; None writes no files.
        """
        parts = gather_on_main_process(self._recalled)
        folder = None if output_dir is None else Path(output_dir) / "inference"
        return results_of_main_process(lambda: self._measure(parts, folder))

    def _recall(self, record: ImageRecord, boxes: NDArray[np.float64]) -> RecallCounts:
        annotations = coco_ground_truth(_with_one_image(self._dataset, record), BBOX)["annotations"]
        objects = [annotation for annotation in annotations if not annotation["iscrowd"]]
        areas = np.array([annotation["area"] for annotation in objects], dtype=np.float64)
        truth = np.array([annotation["bbox"] for annotation in objects], dtype=np.float64).reshape(-1, 4)
        counts = np.array([(low <= areas) & (areas <= high) for low, high in AREA_BOUNDS])
        corner_and_sides = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)[: LIMITS[-1]]
        return RecallCounts(count_found_objects(corner_and_sides, truth, counts), counts.sum(axis=1))

    def _measure(self, parts: Sequence[dict[int | str, RecallCounts]], folder: Path | None) -> Results:
        by_image = {image_id: recalled for part in reversed(parts) for image_id, recalled in part.items()}
        nothing = np.zeros((0, 4))
        recalled = [by_image.get(record.image_id) or self._recall(record, nothing) for record in self._dataset.records]
        name = self._dataset.name
        if len(by_image) < len(self._records):
            unseen = len(self._records) - len(by_image)
            logger.warning(
                "%s: %s not given to the model; they count as images without detections.",
                name,
                counted(unseen, "image was", "images were"),
            )
        results = {BOX_PROPOSALS: recall_metrics(recalled)}
        table = summary_table(results, previous=self._previous) + footnote(results)
        logger.info("%s: average recall of the proposals in %%\n%s", name, table)
        if folder is not None:
            write_json(folder / "results.json", nan_as_null(results), indent=2)
            write_text(folder / "results.md", markdown_report(name, results))
        return results


def count_found_objects(
    boxes: NDArray[np.float64], truth: NDArray[np.float64], counts: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Number of objects that the boxes of one image find.

    Args:
        boxes: (D, 4) x, y, width, height, best first.
        truth: (G, 4) x, y, width, height.
        counts: (A, G) whether an object is in a size class.

    Returns:
        (A, T, L) found objects per size class, IoU threshold and limit of boxes.
    """
    thresholds = np.array(IOU_THRESHOLDS)
    found = np.zeros((len(counts), len(thresholds), len(LIMITS)), dtype=np.int64)
    if not len(boxes) or not len(truth):
        return found
    overlaps = coco_mask.iou(boxes, truth, [False] * len(truth))
    is_unmatched = np.repeat(counts[:, None], len(thresholds), axis=1)  # (A, T, G)
    for row in np.flatnonzero(overlaps.max(axis=1) >= thresholds[0]):
        is_candidate = is_unmatched & (overlaps[row] >= thresholds[:, None])
        values = np.where(is_candidate, overlaps[row], NO_MATCH)
        # Of equal overlaps the last object wins, as in pycocotools.
        best = values.shape[2] - 1 - values[:, :, ::-1].argmax(axis=2)
        is_match = is_candidate.any(axis=2)
        areas, levels = np.nonzero(is_match)
        is_unmatched[areas, levels, best[areas, levels]] = False
        found += is_match[:, :, None] & (row < np.array(LIMITS))
    return found


def recall_metric_names() -> list[str]:
    """AR per limit, of all objects and per size class."""
    return [f"AR{'' if area == 'all' else area[0]}@{limit}" for limit in LIMITS for area in AREAS]


def recall_metrics(recalled: Sequence[RecallCounts]) -> Metrics:
    """The metrics of `recall_metric_names`, in percent; nan without objects of that size.

    Args:
        recalled: of each image.
    """
    found = sum((image.found for image in recalled), np.zeros((len(AREAS), len(IOU_THRESHOLDS), len(LIMITS))))
    objects = sum((image.objects for image in recalled), np.zeros(len(AREAS)))
    values = [
        float(found[row, :, place].mean() / objects[row]) * 100 if objects[row] else float("nan")
        for place in range(len(LIMITS))
        for row in range(len(AREAS))
    ]
    return dict(zip(recall_metric_names(), values, strict=True))


def _with_one_image(dataset: Dataset, record: ImageRecord) -> Dataset:
    return Dataset(dataset.name, (record,), dataset.class_names, dataset.category_ids)


@EVALUATORS.register(BOX_PROPOSALS)
def build_proposal_evaluator(cfg: CfgNode, dataset: Dataset) -> ProposalEvaluator:  # noqa: ARG001
    """The evaluator "box_proposals": recall of the boxes of a model.

    Args:
        cfg: not used.
        dataset: to be evaluated on.
    """
    return ProposalEvaluator(dataset)

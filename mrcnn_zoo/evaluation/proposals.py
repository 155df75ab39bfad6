"""Average recall of proposals, and computation of proposals to store."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from torch import nn

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.data.proposals import StoredProposals
from mrcnn_zoo.data.records import Dataset, ImageRecord
from mrcnn_zoo.distributed.processes import gather_on_main_process, results_of_main_process
from mrcnn_zoo.errors import UserError, counted
from mrcnn_zoo.evaluation.backends import AREAS, IOU_THRESHOLDS, LARGE_SIDE, MEDIUM_SIDE
from mrcnn_zoo.evaluation.funnel.recall_funnel import PROPOSAL_NETWORK, RecallFunnel, build_recall_funnel
from mrcnn_zoo.evaluation.ground_truth import BBOX, coco_ground_truth, complete_ground_truth, new_images
from mrcnn_zoo.evaluation.metrics.contract import Evaluated, measure
from mrcnn_zoo.evaluation.tables import Metrics, Results, footnote, markdown_report, summary_table
from mrcnn_zoo.inference.image_detector import inference
from mrcnn_zoo.modeling.contracts import ProposesRegions
from mrcnn_zoo.output_files import nan_as_null, write_json, write_text
from mrcnn_zoo.registries import EVALUATORS
from mrcnn_zoo.structures import Detections, Sample

BOX_PROPOSALS = "box_proposals"
LIMITS = (100, 1000)  # L maximum numbers of proposals per image
AREA_BOUNDS = (  # of AREAS, square pixels, inclusive
    (0.0, 1e10),
    (0.0, MEDIUM_SIDE**2),
    (MEDIUM_SIDE**2, LARGE_SIDE**2),
    (LARGE_SIDE**2, 1e10),
)
NO_MATCH = -1.0
NOT_FOUND = np.iinfo(np.int64).max  # in place of the row of a box
ALL_LEVELS = slice(None)  # of IoU thresholds

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
            for sample, table in zip(samples, stored_proposals(model, samples), strict=True):
                stored[sample.image_id] = table
    return stored


def stored_proposals(model: ProposesRegions, samples: list[Sample]) -> list[StoredProposals]:
    """The proposals of each image as arrays on the host, in pixels of the image file, best first.

    Args:
        model: in evaluation mode.
        samples: images.
    """
    return [
        StoredProposals(*(column.cpu().numpy().astype(np.float32) for column in (table.boxes, table.objectness)))
        for table in model.propose(samples)
    ]


@dataclass(frozen=True)
class RecallCounts:
    """Counts of one image or of several; A size classes, T thresholds, L limits."""

    found: NDArray[np.int64]  # (A, T, L) found objects
    objects: NDArray[np.int64]  # (A,) all objects

    def __add__(self, other: "RecallCounts") -> "RecallCounts":
        return RecallCounts(self.found + other.found, self.objects + other.objects)

    def recall(self) -> NDArray[np.float64]:
        """(A, T, L) shares of found objects; nan without objects of that size."""
        return _shares(self.found, self.objects[:, None, None])

    def average_recall(self, levels: slice = ALL_LEVELS) -> NDArray[np.float64]:
        """(A, L) recall averaged over IoU thresholds; nan without objects of that size.

        Args:
            levels: the thresholds to average over.
        """
        return _shares(self.found[:, levels].mean(axis=1), self.objects[:, None])


def _shares(found: NDArray[Any], objects: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.divide(found, objects, out=np.full(found.shape, np.nan), where=objects > 0)


class ProposalEvaluator:
    """Average recall of class-agnostic boxes at 100 and 1000 per image, over IoU thresholds from 0.5 to 0.95.

    The numbers are those of pycocotools with `useCats` 0: at each threshold, boxes in descending order of score take
    the unmatched object of highest IoU; crowds are excluded. Detectron2 matches pairs in descending order of IoU
    instead, independent of the score, which gives slightly different numbers.

    Source: Hosang et al. 2015 (What Makes for Effective Detection Proposals?); the COCO API.

    Args:
        dataset: the ground truth.
        funnel: see `build_recall_funnel`; None for none.
    """

    def __init__(self, dataset: Dataset, *, funnel: Mapping[str, RecallFunnel] | None = None) -> None:
        self._dataset = dataset
        self.metrics = dict(funnel or {})
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
        of_funnel = [name for funnel in self.metrics.values() for name in funnel.names((BBOX,))]
        return [f"{BOX_PROPOSALS}/{name}" for name in recall_metric_names()] + of_funnel

    def process(self, samples: Sequence[Sample], detections: Sequence[Detections]) -> None:
        """Count the objects that the boxes of some images find; images that were added before are ignored.

        Args:
            samples: N images of the dataset.
            detections: per image, in pixels of the original image, best first; classes and scores are not used.

        Raises:
            ValueError: an image is not in the dataset.
        """
        images = new_images(samples, detections, self._dataset, known=self._records, added=self._recalled)
        for sample, found in images:
            boxes = found.boxes.detach().cpu().double().numpy()
            record = self._records[sample.image_id]  # type: ignore[index]
            self._recalled[sample.image_id] = count_found_objects(self._dataset, record, boxes)

    def evaluate(self, output_dir: str | Path | None = None) -> Results:
        """{"box_proposals": {"AR@100", "ARs@100", ..., "AR@1000", ...}} in percent, on every process.

        Args:
            output_dir: folder of `inference/`, with results.json and results.md; None writes no files.
        """
        parts = gather_on_main_process(self._recalled)
        for funnel in self.metrics.values():
            funnel.gather()
        folder = None if output_dir is None else Path(output_dir) / "inference"
        return results_of_main_process(lambda: self._measure(parts, folder))

    def _measure(self, parts: Sequence[dict[int | str, RecallCounts]], folder: Path | None) -> Results:
        by_image = {image_id: recalled for part in reversed(parts) for image_id, recalled in part.items()}
        nothing = np.zeros((0, 4))
        recalled = [
            by_image.get(record.image_id) or count_found_objects(self._dataset, record, nothing)
            for record in self._dataset.records
        ]
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
        evaluated = Evaluated(complete_ground_truth(self._dataset), [], (BBOX,), name)
        others, texts = measure(self.metrics, evaluated, folder) if self.metrics else ({}, [])
        if folder is not None:
            write_json(folder / "results.json", nan_as_null(results | others), indent=2)
            page = "\n\n".join([markdown_report(name, results).rstrip(), *texts])
            write_text(folder / "results.md", page + "\n")
        return results | others


def count_found_objects(
    dataset: Dataset,
    record: ImageRecord,
    boxes: NDArray[np.floating],
    *,
    thresholds: Sequence[float] = IOU_THRESHOLDS,
    limits: Sequence[int] = LIMITS,
) -> RecallCounts:
    """Number of objects of one image that boxes find.

    Args:
        dataset: of the image.
        record: of the image, with its objects.
        boxes: (D, 4) x1, y1, x2, y2 in pixels of the image file, best first.
        thresholds: (T,) of the IoU.
        limits: (L,) numbers of boxes that count, ascending.
    """
    annotations = coco_ground_truth(_with_one_image(dataset, record), BBOX)["annotations"]
    objects = [annotation for annotation in annotations if not annotation["iscrowd"]]
    areas = np.array([annotation["area"] for annotation in objects], dtype=np.float64)
    truth = np.array([annotation["bbox"] for annotation in objects], dtype=np.float64).reshape(-1, 4)
    counts = np.array([(low <= areas) & (areas <= high) for low, high in AREA_BOUNDS])
    boxes = boxes[: limits[-1]].astype(np.float64)
    corner_and_sides = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    rows = finding_boxes(corner_and_sides, truth, counts, thresholds=thresholds)
    found = [(rows < limit).sum(axis=2) for limit in limits]
    return RecallCounts(np.stack(found, axis=2), counts.sum(axis=1))


def finding_boxes(
    boxes: NDArray[np.float64],
    truth: NDArray[np.float64],
    counts: NDArray[np.bool_],
    *,
    thresholds: Sequence[float] = IOU_THRESHOLDS,
) -> NDArray[np.int64]:
    """The box that finds each object of one image.

    A box takes the unmatched object of highest IoU, so a match does not depend on the boxes after it, and one pass
    gives the recall of any number of boxes.

    Args:
        boxes: (D, 4) x, y, width, height, best first.
        truth: (G, 4) x, y, width, height.
        counts: (A, G) whether an object is in a size class.
        thresholds: (T,) of the IoU.

    Returns:
        (A, T, G) rows of `boxes`; NOT_FOUND of objects that none finds or that are not in the size class.
    """
    levels = np.array(thresholds)
    rows = np.full((len(counts), len(levels), len(truth)), NOT_FOUND, dtype=np.int64)
    if not len(boxes) or not len(truth):
        return rows
    overlaps = coco_mask.iou(boxes, truth, [False] * len(truth))
    is_unmatched = np.repeat(counts[:, None], len(levels), axis=1)  # (A, T, G)
    for row in np.flatnonzero(overlaps.max(axis=1) >= levels.min()):
        is_candidate = is_unmatched & (overlaps[row] >= levels[:, None])
        values = np.where(is_candidate, overlaps[row], NO_MATCH)
        # Of equal overlaps the last object wins, as in pycocotools.
        best = values.shape[2] - 1 - values[:, :, ::-1].argmax(axis=2)
        match = np.nonzero(is_candidate.any(axis=2))
        is_unmatched[(*match, best[match])] = False
        rows[(*match, best[match])] = row
    return rows


def recall_metric_names() -> list[str]:
    """AR per limit, of all objects and per size class."""
    return [f"AR{'' if area == 'all' else area[0]}@{limit}" for limit in LIMITS for area in AREAS]


def recall_metrics(recalled: Sequence[RecallCounts]) -> Metrics:
    """The metrics of `recall_metric_names`, in percent; nan without objects of that size.

    Args:
        recalled: of each image.
    """
    shape = (len(AREAS), len(IOU_THRESHOLDS), len(LIMITS))
    nothing = RecallCounts(np.zeros(shape, dtype=np.int64), np.zeros(len(AREAS), dtype=np.int64))
    average = sum(recalled, nothing).average_recall() * 100
    return dict(zip(recall_metric_names(), average.T.reshape(-1).tolist(), strict=True))


def _with_one_image(dataset: Dataset, record: ImageRecord) -> Dataset:
    return Dataset(dataset.name, (record,), dataset.class_names, dataset.category_ids)


@EVALUATORS.register(BOX_PROPOSALS)
def build_proposal_evaluator(cfg: CfgNode, dataset: Dataset) -> ProposalEvaluator:
    """The evaluator "box_proposals": recall of the boxes of a model.

    Args:
        cfg: of the model; the recall funnel is that of a ProposalNetwork.
        dataset: to be evaluated on.
    """
    if cfg.MODEL.META_ARCHITECTURE != PROPOSAL_NETWORK:
        return ProposalEvaluator(dataset)
    funnel = build_recall_funnel(cfg, dataset, tasks=(BBOX,), max_detections=LIMITS[-1])
    return ProposalEvaluator(dataset, funnel=funnel)

"""Comparison of proposal generators: recall by number of proposals, IoU and object size, and time per image.

Source: Hosang et al. 2015 (What Makes for Effective Detection Proposals?), sec. 4 and 5. Average recall (AR) is COCO's,
the mean over the IoU thresholds from 0.5 to 0.95 in steps of 0.05; theirs is twice the area under recall over IoU from
0.5 to 1.
"""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from tabulate import tabulate
from torch import nn

from mrcnn_zoo.config import CfgNode, changed_config
from mrcnn_zoo.data.loading.loader import EvalLoader
from mrcnn_zoo.data.loading.proposals import proposals_of_images
from mrcnn_zoo.data.proposals import StoredProposals
from mrcnn_zoo.data.records import Dataset, ImageRecord
from mrcnn_zoo.errors import UserError, counted
from mrcnn_zoo.evaluation.backends import AREAS, IOU_THRESHOLDS
from mrcnn_zoo.evaluation.evaluator import build_prediction_loader, with_progress
from mrcnn_zoo.evaluation.proposals import RecallCounts, count_found_objects, stored_proposals
from mrcnn_zoo.evaluation.tables import ABSENT, table_name
from mrcnn_zoo.inference.image_detector import inference
from mrcnn_zoo.modeling.contracts import ProposesRegions
from mrcnn_zoo.output_files import csv_text
from mrcnn_zoo.structures.samples import seed_of

# Proposals are stored as float32, so an exact box may have an IoU of 0.99999.
EXACT_IOU = 0.9999
# T thresholds from 0.5 to 1 in steps of 0.025; every second one is COCO's.
THRESHOLDS = tuple(sorted((*IOU_THRESHOLDS, *(level + 0.025 for level in IOU_THRESHOLDS), EXACT_IOU)))
COCO_LEVELS = slice(0, 2 * len(IOU_THRESHOLDS), 2)  # of THRESHOLDS
NUMBERS = (1, 2, 3, 5, 10, 20, 30, 50, 100, 200, 300, 500, 1000)  # L numbers of proposals per image
TABLE_NUMBERS = (10, 100, 300, 1000)
CURVE_NUMBERS = (100, 1000)  # of recall over IoU
PROPOSALS = "proposals"  # header of the names
TABLE_LEVELS = range(0, len(THRESHOLDS), 4)  # IoU 0.5, 0.6, ..., 1

TimedProposals = tuple[ImageRecord, StoredProposals, float]  # of an image, and the seconds that they took


class ProposalSource(Protocol):
    """A name, and the proposals of each image of a dataset."""

    name: str

    def __iter__(self) -> Iterator[TimedProposals]:
        """Each image of the dataset with its proposals and the seconds that they took, nan if unknown."""


class StoredSource:
    """Proposals that were read from a file.

    Args:
        name: in tables.
        dataset: the images.
        proposals: by image id and file.
    """

    def __init__(self, name: str, dataset: Dataset, proposals: Mapping[tuple[int, str], StoredProposals]) -> None:
        self.name = name
        self._dataset = dataset
        self._proposals = proposals

    def __iter__(self) -> Iterator[TimedProposals]:
        for record in self._dataset.records:
            yield record, self._proposals[record.image_id, record.source.name], math.nan


class GeneratorSource:
    """Proposals that a model computes; the first batch is computed twice, the first time as a warm-up.

    The seconds are those of the model until the boxes are on the host. Reading and resizing images is not included.

    Args:
        name: in tables.
        dataset: the images.
        model: a module with `propose`.
        loader: batches of the dataset.
    """

    def __init__(self, name: str, dataset: Dataset, *, model: nn.Module, loader: EvalLoader) -> None:
        self.name = name
        self._records = {record.image_id: record for record in dataset.records}
        self._model = model
        self._loader = loader

    def __iter__(self) -> Iterator[TimedProposals]:
        is_warm = False
        with inference(self._model):
            for samples in with_progress(self._loader, len(self._records), name=self.name):
                if not is_warm:
                    stored_proposals(self._model, samples)  # type: ignore[arg-type]
                    is_warm = True
                start = time.perf_counter()
                tables = stored_proposals(self._model, samples)  # type: ignore[arg-type]
                seconds = (time.perf_counter() - start) / len(samples)
                for sample, table in zip(samples, tables, strict=True):
                    yield self._records[sample.image_id], table, seconds  # type: ignore[index]


def build_stored_source(name: str, dataset: Dataset, path: Path) -> StoredSource:
    """A proposal file as a source.

    Args:
        name: in tables.
        dataset: the images.
        path: a `.pkl` or `.npz`.

    Raises:
        UserError: the file cannot be read, or lacks an image.
    """
    return StoredSource(name, dataset, proposals_of_images(dataset.records, path, dataset.name))


def build_generator_source(cfg: CfgNode, name: str, dataset: Dataset, model: nn.Module) -> GeneratorSource:
    """A model as a source.

    Args:
        cfg: of the model.
        name: in tables.
        dataset: the images, all of them.
        model: a detector with proposals.

    Raises:
        UserError: the model has no proposals.
    """
    if not isinstance(model, ProposesRegions):
        raise UserError(
            f"{name}: {type(model).__name__} (MODEL.META_ARCHITECTURE) has no proposals: use a ProposalNetwork or a "
            "GeneralizedRCNN."
        )
    # The dataset has the images to compare already; loader processes would take time from the model.
    cfg = changed_config(cfg, {"TEST.NUM_IMAGES": 0, "DATALOADER.NUM_WORKERS": 0})
    return GeneratorSource(name, dataset, model=model, loader=build_prediction_loader(cfg, dataset, model))


@dataclass(frozen=True)
class SourceRecall:
    """Recall of the proposals of one source; A size classes, T of THRESHOLDS, L of NUMBERS."""

    name: str
    counts: RecallCounts
    num_images: int
    num_proposals: int  # of all images
    seconds: float  # per image; nan of files

    def average_recall(self, number: int, area: str = AREAS[0]) -> float:
        """AR in [0, 1] of the first proposals of each image; nan without objects of that size.

        Args:
            number: one of NUMBERS.
            area: one of AREAS.
        """
        return float(self.counts.average_recall(COCO_LEVELS)[AREAS.index(area), NUMBERS.index(number)])

    def recall_over_iou(self, number: int) -> NDArray[np.float64]:
        """(T,) recall in [0, 1] of the first proposals of each image at each of THRESHOLDS.

        Args:
            number: one of NUMBERS.
        """
        return self.counts.recall()[0, :, NUMBERS.index(number)]


def measure_recall(source: ProposalSource, dataset: Dataset) -> SourceRecall:
    """The recall of a source, image by image; the proposals are not kept.

    Args:
        source: of proposals.
        dataset: the ground truth.
    """
    counts = RecallCounts(
        np.zeros((len(AREAS), len(THRESHOLDS), len(NUMBERS)), dtype=np.int64), np.zeros(len(AREAS), dtype=np.int64)
    )
    num_proposals, total = 0, 0.0
    for record, table, seconds in source:
        boxes = ranked_boxes(table, record.image_id)
        counts += count_found_objects(dataset, record, boxes, thresholds=THRESHOLDS, limits=NUMBERS)
        num_proposals += len(boxes)
        total += seconds
    return SourceRecall(source.name, counts, len(dataset), num_proposals, total / len(dataset))


def ranked_boxes(table: StoredProposals, image_id: int) -> NDArray[np.float32]:
    """The boxes of an image in descending order of objectness.

    Boxes of equal objectness are in a random order, which is the same every time: the first windows of a grid would
    otherwise all be in the same corner of the image.

    Args:
        table: the proposals.
        image_id: seed of the order.
    """
    shuffled = np.random.default_rng(seed_of(image_id)).permutation(len(table.boxes))
    return table.boxes[shuffled[np.argsort(-table.objectness[shuffled], kind="stable")]]


# --- tables -----------------------------------------------------------------------------------------------------------


def overall_table(results: Sequence[SourceRecall]) -> str:
    """Table of AR in percent at TABLE_NUMBERS, seconds and boxes per image.

    Args:
        results: of each source.
    """
    rows = [
        [
            table_name(result.name),
            *(_percent(result.average_recall(number)) for number in TABLE_NUMBERS),
            ABSENT if math.isnan(result.seconds) else f"{result.seconds:.4f}",
            f"{result.num_proposals / result.num_images:.1f}",
        ]
        for result in results
    ]
    return _table([PROPOSALS, *(_metric(number) for number in TABLE_NUMBERS), "seconds", "boxes"], rows)


def size_table(results: Sequence[SourceRecall]) -> str:
    """Table of AR in percent at TABLE_NUMBERS, of the objects of each size that occurs.

    Args:
        results: of each source.
    """
    areas = [area for area, count in zip(AREAS, results[0].counts.objects, strict=True) if count][1:]
    rows = [
        [area, table_name(result.name), *(_percent(result.average_recall(number, area)) for number in TABLE_NUMBERS)]
        for area in areas
        for result in results
    ]
    return _table(["objects", PROPOSALS, *(_metric(number) for number in TABLE_NUMBERS)], rows)


def iou_table(results: Sequence[SourceRecall], number: int) -> str:
    """Table of recall in percent at IoU thresholds from 0.5 to 1.

    Args:
        results: of each source.
        number: of proposals per image.
    """
    rows = [
        [table_name(result.name), *(_percent(result.recall_over_iou(number)[level]) for level in TABLE_LEVELS)]
        for result in results
    ]
    return _table([PROPOSALS, *(f"IoU {THRESHOLDS[level]:.1f}" for level in TABLE_LEVELS)], rows)


def comparison_report(results: Sequence[SourceRecall], dataset: Dataset, *, picture: str) -> str:
    """Markdown page with all tables and a link to the picture.

    Args:
        results: of each source.
        dataset: the ground truth.
        picture: path of the picture, relative to the page.
    """
    objects = [int(count) for count in results[0].counts.objects]
    sizes = ", ".join(f"{count:,} {area}" for area, count in zip(AREAS[1:], objects[1:], strict=True))
    parts = [
        f"# Proposals on {dataset.name}",
        f"{counted(len(dataset), 'image')}, {counted(objects[0], 'object')} ({sizes}; bounds 32 x 32 and 96 x 96 "
        "pixels, crowds left out). Recall in percent of the objects, whatever their class.",
        "## Average recall",
        "AR@N: mean recall over the IoU thresholds from 0.5 to 0.95 in steps of 0.05 (COCO's), of the N best proposals "
        "of each image. Seconds per image are those of the generator, without reading and resizing the image; boxes "
        "are the mean number per image.",
        overall_table(results),
        "## By size of the objects",
        size_table(results),
        *(part for number in CURVE_NUMBERS for part in (f"## Recall at {number}", iou_table(results, number))),
        f"![Recall over IoU, and average recall over the number of proposals]({picture})",
    ]
    return "\n\n".join(parts) + "\n"


def comparison_csv(results: Sequence[SourceRecall]) -> str:
    """CSV with one row per source: AR by number and size, recall by number and IoU, in percent; empty where undefined.

    Args:
        results: of each source.
    """
    areas = [(number, area) for number in NUMBERS for area in AREAS]
    curves = [(number, level) for number in CURVE_NUMBERS for level in range(len(THRESHOLDS))]
    header = ["proposals", "images", "objects", "proposals_per_image", "seconds_per_image"]
    header += [_metric(*column) for column in areas]
    header += [f"recall@{number}_IoU_{THRESHOLDS[level]:.3f}" for number, level in curves]
    rows: list[list[object]] = [[*header]]
    for result in results:
        values = [result.num_proposals / result.num_images, result.seconds]
        values += [result.average_recall(*column) * 100 for column in areas]
        values += [float(result.recall_over_iou(number)[level]) * 100 for number, level in curves]
        shown = ["" if math.isnan(value) else f"{value:.6g}" for value in values]
        rows.append([result.name, result.num_images, int(result.counts.objects[0]), *shown])
    return csv_text(rows)


def _metric(number: int, area: str = AREAS[0]) -> str:
    return f"AR{'' if area == AREAS[0] else area[0]}@{number}"


def _percent(value: float) -> str:
    return ABSENT if math.isnan(value) else f"{value * 100:.1f}"


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    sides = ["left" if header in (PROPOSALS, "objects") else "right" for header in headers]
    return tabulate(rows, headers, tablefmt="pipe", disable_numparse=True, colalign=sides)

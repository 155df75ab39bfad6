"""Intervals of AP over the images of a test set, by bootstrap (EVAL.BOOTSTRAP)."""

import contextlib
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mrcnn_zoo.data.records import Dataset
from mrcnn_zoo.data.splits import units_of
from mrcnn_zoo.evaluation.backends import KEYPOINTS
from mrcnn_zoo.evaluation.bootstrap import ImageMatches, match_images, matches_file, origin_of
from mrcnn_zoo.evaluation.metrics.contract import Evaluated
from mrcnn_zoo.evaluation.resampled_ap import bootstrap_interval, draw_images, resampled_ap
from mrcnn_zoo.evaluation.tables import Intervals, Results

GROUP_SUFFIX = "_interval"  # of the groups in results.json: bbox_interval: {AP_low: ..., AP_high: ...}
LOW, HIGH = "_low", "_high"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Bootstrap:
    """How the intervals of an evaluation are computed.

    Args:
        resamples: of the images; 0 for no intervals.
        groups: of each image id; groups are drawn as a whole. None draws images.
    """

    resamples: int = 0
    groups: Mapping[int | str, str] | None = None

    def intervals(
        self, evaluated: Evaluated, *, sigmas: Sequence[float], keypoint_limit: int, rows_file: Path | None
    ) -> Intervals:
        """The 95 % interval of each AP by task, see `bootstrap_interval`; {} without resamples.

        Args:
            evaluated: ground truth and detections.
            sigmas: of the keypoints, see `mrcnn_zoo.evaluation.backends.Backend`.
            keypoint_limit: maximum number of detections per image in the keypoint task.
            rows_file: with the detections; the matches are kept beside it, for comparisons of runs. None keeps none.
        """
        found: dict[str, dict[str, tuple[float, float]]] = {}
        for task in evaluated.tasks if self.resamples else ():
            start = time.perf_counter()
            name = evaluated.dataset_name
            logger.info("%s: computing intervals of %s AP from %d resamples", name, task, self.resamples)
            matches = match_images(
                evaluated.ground_truth_of(task),
                evaluated.detections_of(task),
                task,
                max_detections=keypoint_limit if task == KEYPOINTS else evaluated.max_detections,
                sigmas=sigmas if task == KEYPOINTS else (),
                groups=self.groups,
            )
            if rows_file is not None:
                _keep(matches, rows_file, task)
            itself = np.ones((1, len(matches)), dtype=np.uint16)
            ap = resampled_ap(matches, np.concatenate([itself, draw_images(matches, self.resamples)]))
            units = matches.num_groups
            found[task] = {key: bootstrap_interval(row[0], row[1:], num_units=units) for key, row in ap.items()}
            logger.info("%s: intervals of %s AP in %.1f s", name, task, time.perf_counter() - start)
        return found


def _keep(matches: ImageMatches, rows_file: Path, task: str) -> None:
    with contextlib.suppress(OSError):  # can be computed again
        matches.save(matches_file(rows_file, task), origin=origin_of(rows_file))


def interval_results(intervals: Intervals) -> Results:
    """Intervals as groups of results.json, such as {"bbox_interval": {"AP_low": 36.9, "AP_high": 39.5}}.

    Args:
        intervals: by task and metric.
    """
    return {
        task + GROUP_SUFFIX: {
            name + end: value
            for name, interval in metrics.items()
            for end, value in zip((LOW, HIGH), interval, strict=True)
        }
        for task, metrics in intervals.items()
    }


def image_groups(dataset: Dataset, pattern: str) -> dict[int | str, str] | None:
    """The group of each image, of DATASETS.GROUP; None without a pattern.

    Args:
        dataset: to be evaluated on.
        pattern: regular expression, see DATASETS.GROUP.

    Raises:
        UserError: the pattern does not match an image.
    """
    if not pattern:
        return None
    units = units_of([dataset], group=pattern)
    return {dataset.records[row].image_id: unit.key for unit in units for row in unit.rows}

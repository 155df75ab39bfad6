"""AP of a finished run on resamples of its test images, from the detections that its evaluation has written.

Matches and resampled AP are kept in files beside coco_instances_results.json, so that a second report is fast.
"""

import contextlib
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrcnn_zoo.config import load_config
from mrcnn_zoo.data.paths import folder_name
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.evaluation.ap_intervals import image_groups
from mrcnn_zoo.evaluation.backends import detection_set
from mrcnn_zoo.evaluation.bootstrap import ImageMatches, load_arrays, match_images, matches_file, origin_of, save_arrays
from mrcnn_zoo.evaluation.coco import STANDARD_MAXIMUM
from mrcnn_zoo.evaluation.ground_truth import BBOX, SEGM, complete_ground_truth, ground_truth_of_task
from mrcnn_zoo.evaluation.preflight import evaluated_part, load_test_datasets
from mrcnn_zoo.evaluation.resampled_ap import draw_images, resampled_ap
from mrcnn_zoo.evaluation.result_rows import ROWS_FILE
from mrcnn_zoo.evaluation.tables import PER_CLASS
from mrcnn_zoo.experiments.records import INFERENCE, RunRecord, stage_records

TASKS = (BBOX, SEGM)
RESAMPLES = 1000
RESAMPLING_SEED = 0  # equal in all runs: they are compared on the same resamples
STAGES = "stages"  # first part of the columns of stages
SIZE_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


@dataclass(frozen=True)
class ResampledMetric:
    """A metric of one run on B resamples of its test images.

    Args:
        values: (B,) in percent.
        num_units: number of images, or of groups of images.
        image_set: fingerprint of images and groups; runs with equal ones have the same resamples.
        num_images: of the test set.
    """

    values: NDArray[np.float64]
    num_units: int
    image_set: str
    num_images: int


@dataclass(frozen=True)
class EvaluatedRun:
    """Where the evaluation of a metric is.

    Args:
        config: config.yaml of the training.
        folder: of its coco_instances_results.json.
        dataset: name of the test set; empty for the only one.
        task: "bbox" or "segm".
        metric: e.g. "AP50" or "AP-dog".
    """

    config: Path
    folder: Path
    dataset: str
    task: str
    metric: str


def find_evaluation(run: RunRecord, column: str) -> EvaluatedRun | None:
    """The files that a metric of a run was computed from; None of a metric that cannot be resampled.

    Args:
        run: finished.
        column: e.g. "segm/AP", "digits_val/segm/AP50", "stages/joint/bbox/AP-7".
    """
    *prefix, task, metric = column.split("/")
    if task not in TASKS or not (metric in SIZE_METRICS or metric.startswith(PER_CLASS)):
        return None
    folder = run.results_dir.parent
    if prefix[:1] == [STAGES]:
        stages = stage_records(run.folder)
        if len(prefix) < 2 or prefix[1] not in stages:
            return None
        folder, prefix = stages[prefix[1]]["folder"], prefix[2:]
    dataset = "/".join(prefix)
    results = folder / folder_name(dataset) / INFERENCE if dataset else folder / INFERENCE
    return EvaluatedRun(folder / "config.yaml", results, dataset, task, metric)


class GroundTruths:
    """Ground truth of test sets; that of the last run is kept for the next with the same datasets."""

    def __init__(self) -> None:
        self._key: tuple[str, ...] = ()
        self._content: tuple[dict[str, Any], dict[int | str, str] | None] = ({}, None)

    def of_run(self, run: EvaluatedRun) -> tuple[dict[str, Any], dict[int | str, str] | None, int]:
        """A COCO dataset with all annotations, the groups of its images, and the limit of detections per image.

        See `complete_ground_truth` and `image_groups`.

        Args:
            run: evaluated on it.

        Raises:
            UserError: the config or the test set cannot be loaded.
        """
        cfg = load_config(run.config)
        options = (cfg.TEST.NUM_IMAGES, cfg.MODEL.MASK_ON, cfg.MODEL.KEYPOINT_ON)
        key = (str(cfg.DATASETS), run.dataset, *map(str, options))
        if key != self._key:
            datasets = [dataset for dataset in load_test_datasets(cfg) if run.dataset in ("", dataset.name)]
            if len(datasets) != 1:
                raise UserError(f"{run.config} does not name one test set {run.dataset!r}, on which {run.folder} is.")
            dataset = evaluated_part(datasets[0], cfg)
            self._content = complete_ground_truth(dataset), image_groups(dataset, cfg.DATASETS.GROUP)
            self._key = key
        limit = cfg.TEST.DETECTIONS_PER_IMAGE
        return *self._content, limit if limit > 0 else STANDARD_MAXIMUM


def read_matches(run: EvaluatedRun, truths: GroundTruths) -> ImageMatches:
    """The matches per image of an evaluated run; computed and kept in a file the first time.

    Args:
        run: see `find_evaluation`.
        truths: of runs that were read before.

    Raises:
        UserError: the detections or the test set cannot be read.
    """
    rows_file = run.folder / ROWS_FILE
    try:
        origin = origin_of(rows_file)
        path = matches_file(rows_file, run.task)
        kept = ImageMatches.load(path, origin=origin)
        if kept is not None:
            return kept
        rows = json.loads(rows_file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{rows_file} cannot be read ({error}); evaluate the run again.") from error
    complete, groups, limit = truths.of_run(run)
    matches = match_images(
        ground_truth_of_task(complete, run.task),
        detection_set(rows, complete, run.task),
        run.task,
        max_detections=limit,
        groups=groups,
    )
    with contextlib.suppress(OSError):  # a folder of others
        matches.save(path, origin=origin)
    return matches


def read_resampled(run: EvaluatedRun, truths: GroundTruths, *, resamples: int) -> ResampledMetric | None:
    """A metric on resamples of the test images; computed and kept in a file the first time.

    Args:
        run: see `find_evaluation`.
        truths: see `read_matches`.
        resamples: B.

    Returns:
        None if the run has no such metric.

    Raises:
        UserError: see `read_matches`.
    """
    matches = read_matches(run, truths)
    image_set = fingerprint_of(matches)
    origin = f"{origin_of(run.folder / ROWS_FILE)} {image_set} {resamples} {RESAMPLING_SEED}"
    path = run.folder / f"resampled_{run.task}.npz"
    arrays = load_arrays(path, origin=origin)
    if arrays is None:
        found = resampled_ap(matches, draw_images(matches, resamples, seed=RESAMPLING_SEED))
        arrays = {"names": np.array(list(found)), "values": np.stack(list(found.values()))}
        with contextlib.suppress(OSError):
            save_arrays(path, arrays, origin=origin)
    metrics = dict(zip(arrays["names"].tolist(), arrays["values"], strict=True))
    if run.metric not in metrics:
        return None
    return ResampledMetric(metrics[run.metric], matches.num_groups, image_set, len(matches))


def fingerprint_of(matches: ImageMatches) -> str:
    """Hash of the ids and groups of the images: equal ones have equal resamples.

    Args:
        matches: of a test set.
    """
    text = json.dumps([matches.image_ids.tolist(), matches.groups.tolist()])
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]

"""Rows of a sweep's comparison: from values, and from the files of finished runs."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from mrcnn_zoo.config import load_config
from mrcnn_zoo.evaluation.backends import curves_by_pycocotools, detection_set
from mrcnn_zoo.evaluation.ground_truth import complete_ground_truth, ground_truth_of_task
from mrcnn_zoo.evaluation.preflight import evaluated_part, load_test_datasets
from mrcnn_zoo.evaluation.tables import coco_metrics
from mrcnn_zoo.experiments.comparison import MetricComparison, VariantValues, compare, compare_variants
from mrcnn_zoo.experiments.records import FAILED, FINISHED, WAITING, RunRecord, SweepRecord
from mrcnn_zoo.experiments.resampled_runs import GroundTruths, ResampledMetric, find_evaluation, read_matches
from mrcnn_zoo.experiments.runs import RunKey
from mrcnn_zoo.experiments.statistics import IMAGES, SEEDS, SEEDS_AND_IMAGES
from mrcnn_zoo.experiments.sweep_file import Sweep
from mrcnn_zoo.experiments.variants import Variant

CLASSIFIED = "classification/top1"


def values(name: str, *numbers: float, num_seeds: int = 0) -> VariantValues:
    return VariantValues(name, num_seeds or len(numbers), dict(enumerate(numbers)))


def test_rows_of_values_without_images() -> None:
    base, wide = (88.0, 88.4, 87.9), (91.0, 90.6, 91.3)
    found = compare_variants(
        CLASSIFIED, [values("base", *base), values("wide", *wide), values("same", 88.1, 88.5, 87.8)], reference="base"
    )
    expected = stats.ttest_ind(wide, base, equal_var=False)
    assert found.covers == SEEDS
    assert found.num_images == 0
    reference, row, same = found.rows
    assert (reference.verdict, reference.difference) == ("", None)
    assert row.difference is not None
    assert row.difference.p_value == pytest.approx(expected.pvalue)
    assert row.adjusted_p == pytest.approx(2 * expected.pvalue)  # the smaller of two
    assert (row.verdict, same.verdict) == ("better", "not distinguishable")
    assert same.detectable > 0.3
    assert math.isnan(reference.detectable)


def test_less_is_better_for_times_and_losses() -> None:
    for column, verdict in (("val/total_loss", "worse"), ("seconds/step", "better"), ("timing/seconds", "worse")):
        found = compare_variants(
            column, [values("base", 1.0, 1.1, 0.9), values("slow", 9.0, 9.1, 8.9)], reference="base"
        )
        assert found.row("slow").verdict == verdict, column


def test_interval_of_an_ap_ends_at_100() -> None:
    resampled = np.random.default_rng(0).normal(98, 1, (200, 2))
    parts = {seed: ResampledMetric(resampled[:, seed], 50, "same", 50) for seed in (0, 1)}
    found = compare_variants("segm/AP", [VariantValues("base", 2, {0: 97.0, 1: 99.0}, parts)], reference="base")
    assert found.row("base").mean.high == 100  # type: ignore[union-attr]
    assert found.row("base").mean.low < 97  # type: ignore[union-attr]


def test_missing_runs_and_one_seed_are_noted() -> None:
    variants = [values("base", 50.0, 51.0), values("single", 90.0, num_seeds=1), VariantValues("none", 2, {})]
    found = compare_variants(CLASSIFIED, variants, reference="base")
    assert found.row("single").verdict == "not distinguishable"
    assert found.row("single").notes == ("one seed: no interval", "not tested")
    assert found.row("none").mean is None
    assert found.row("none").verdict == ""
    equal = compare_variants(CLASSIFIED, [values("base", 50.0, 50.0), values("x", 60.0, 60.0)], reference="base")
    assert equal.row("x").verdict == "not distinguishable"
    assert equal.row("x").notes == ("equal in all seeds", "not tested")
    with pytest.raises(KeyError):
        equal.row("y")


def test_without_results_of_the_reference_there_is_no_difference() -> None:
    variants = [VariantValues("base", 2, {}), values("x", 60.0, 61.0)]
    row = compare_variants(CLASSIFIED, variants, reference="base").row("x")
    assert row.mean is not None
    assert (row.difference, row.verdict) == (None, "")


def test_other_test_sets_do_not_share_images() -> None:
    rng = np.random.default_rng(0)
    common = rng.normal(50, 2, 500)

    def variant(name: str, image_set: str) -> VariantValues:
        noisy = {seed: common + rng.normal(0, 0.01, 500) for seed in range(3)}
        parts = {seed: ResampledMetric(part, 100, image_set, 100) for seed, part in noisy.items()}
        return VariantValues(name, 3, {seed: 50.0 + seed / 10 for seed in range(3)}, parts)

    variants = [variant("base", "a"), variant("same", "a"), variant("other", "b")]
    found = compare_variants("bbox/AP", variants, reference="base")
    same, other = found.row("same"), found.row("other")
    assert same.difference is not None
    assert other.difference is not None
    assert same.difference.image_variance < 0.01
    assert other.difference.image_variance == pytest.approx(8, rel=0.2)
    assert (same.notes, other.notes) == ((), ("other test set",))
    assert found.covers == SEEDS_AND_IMAGES


@pytest.fixture(scope="module")
def sweep_record(tmp_path_factory: pytest.TempPathFactory) -> SweepRecord:
    """Two variants of three seeds on 8 images of digits; the worse variant misses many objects; a seed has failed."""
    folder = tmp_path_factory.mktemp("sweep")
    cfg = load_config(None, ["DATASETS.TEST", "['digits_val']", "TEST.NUM_IMAGES", 8])
    (dataset,) = load_test_datasets(cfg)
    truth = complete_ground_truth(evaluated_part(dataset, cfg))
    rng = np.random.default_rng(0)
    runs = []
    for variant, share in (("good", 0.9), ("bad", 0.4)):
        for seed in range(3):
            key = RunKey(variant, seed)
            run = folder / key.path
            if (variant, seed) == ("bad", 2):
                runs.append(RunRecord(key, run, FAILED, error="out of memory"))
                continue
            runs.append(write_run(run, key, cfg.dump(), truth, found=lambda: rng.random() < share))  # noqa: B023
    sweep = Sweep("s", folder / "sweep.yaml", "", folder, (Variant("good"), Variant("bad")), (0, 1, 2), "good")
    return SweepRecord("s", folder, sweep, tuple(runs))


def write_run(folder: Path, key: RunKey, config: str, truth: dict[str, Any], found: Callable[[], bool]) -> RunRecord:
    results_dir = folder / "inference"
    results_dir.mkdir(parents=True)
    (folder / "config.yaml").write_text(config)
    columns = ("image_id", "category_id", "bbox", "segmentation")
    rows = [
        {name: row[name] for name in columns} | {"score": round(0.2 + 0.1 * (number % 8), 2)}
        for number, row in enumerate(truth["annotations"])
        if found()
    ]
    (results_dir / "coco_instances_results.json").write_text(json.dumps(rows))
    of_task = ground_truth_of_task(truth, "bbox")
    curves = curves_by_pycocotools(of_task, detection_set(rows, of_task, "bbox"), "bbox", [100])
    ids, names = zip(*((item["id"], item["name"]) for item in truth["categories"]), strict=True)
    results = {"bbox": coco_metrics(curves, names, ids), "classification": {"top1": 50.0 + key.seed}}
    return RunRecord(key, folder, FINISHED, results, results_dir)


def comparison(record: SweepRecord, metric: str) -> MetricComparison:
    (found,) = compare(record, [metric], resamples=100)
    return found


def test_finished_runs_are_compared_with_their_images(sweep_record: SweepRecord) -> None:
    found = comparison(sweep_record, "bbox/AP")
    good, bad = found.rows
    assert found.num_images == 8
    assert good.mean is not None
    assert good.mean.covers == SEEDS_AND_IMAGES
    assert good.mean.image_variance >= 0
    assert good.mean.value == pytest.approx(np.mean(list(good.values.values())))
    assert bad.notes == ("1 of 3 seeds failed",)
    assert list(bad.values) == [0, 1]
    assert bad.difference is not None
    assert bad.difference.value < -20
    assert bad.verdict == "worse"
    assert comparison(sweep_record, CLASSIFIED).covers == SEEDS
    assert comparison(sweep_record, "bbox/AR100").covers == SEEDS  # recall is not resampled
    assert comparison(sweep_record, "bbox/AP-7").covers == SEEDS_AND_IMAGES


def test_matches_are_kept_until_the_detections_change(sweep_record: SweepRecord) -> None:
    run = sweep_record.runs[0]
    evaluation = find_evaluation(run, "bbox/AP")
    assert evaluation is not None
    first = read_matches(evaluation, GroundTruths())
    config = run.folder / "config.yaml"
    text = config.read_text()
    config.write_text("no config")  # is not read again
    try:
        assert len(read_matches(evaluation, GroundTruths()).images) == len(first.images)
        rows_file = evaluation.folder / "coco_instances_results.json"
        rows = rows_file.read_text()
        rows_file.write_text(rows + "\n")
        found = comparison(sweep_record, "bbox/AP")
        assert found.row("good").notes == ("images of seed 0 not resampled",)
        assert found.row("good").mean.covers == SEEDS  # type: ignore[union-attr]
    finally:
        config.write_text(text)
    assert comparison(sweep_record, "bbox/AP").row("good").notes == ()


def test_missing_results_files_are_one_warning(sweep_record: SweepRecord, tmp_path: Path, caplog) -> None:
    runs = tuple(replace(run, results_dir=tmp_path / "moved" / "inference") for run in sweep_record.runs)
    found = compare(replace(sweep_record, runs=runs), ["bbox/AP", "bbox/AP50"], resamples=20)
    assert found[0].row("good").notes[0] == "images of seed 0 not resampled"
    (line,) = caplog.messages
    assert line.startswith("the noise of the test images is unknown in 4 of 4 rows")
    assert str(tmp_path / "moved") in line


def test_sweep_that_is_running_has_rows(sweep_record: SweepRecord) -> None:
    first, *others = sweep_record.runs
    waiting = tuple(RunRecord(run.key, run.folder, WAITING) for run in others)
    found = comparison(SweepRecord("s", sweep_record.folder, sweep_record.sweep, (first, *waiting)), "bbox/AP")
    good, bad = found.rows
    assert good.notes == ("2 of 3 seeds not finished", "one seed: interval over images alone")
    assert good.mean is not None
    assert good.mean.covers == found.covers == IMAGES
    assert good.mean.low < good.mean.high
    assert bad.notes == ("3 of 3 seeds not finished",)


def test_evaluations_of_stages_and_datasets_are_found(tmp_path: Path) -> None:
    stage = tmp_path / "2_joint"
    stage.mkdir()
    (stage / "stage.json").write_text(json.dumps({"name": "joint", "results": {}}))
    run = RunRecord(RunKey("a", 0), tmp_path, FINISHED, {}, stage / "inference")
    expected: Mapping[str, Path | None] = {
        "bbox/AP": stage / "inference",
        "stages/joint/segm/AP-7": stage / "inference",
        "my_val/segm/APs": stage / "my_val" / "inference",
        "stages/other/segm/AP": None,
        "classification/top1": None,
        "bbox/AR100": None,
        "f1_segm/AP": None,
    }
    for column, folder in expected.items():
        found = find_evaluation(run, column)
        assert (found and found.folder) == folder, column

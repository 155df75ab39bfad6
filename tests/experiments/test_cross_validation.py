"""Cross-validation: values by fold, the pooled evaluation against pycocotools, paired differences, groups."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mrcnn_zoo.config import load_config
from mrcnn_zoo.data import load_dataset, load_train_and_test
from mrcnn_zoo.evaluation.backends import curves_by_pycocotools, detection_set
from mrcnn_zoo.evaluation.ground_truth import complete_ground_truth, ground_truth_of_task
from mrcnn_zoo.evaluation.tables import coco_metrics
from mrcnn_zoo.experiments.cross_validation import CrossValidation, HeldOut, cross_validate, mean_of_folds
from mrcnn_zoo.experiments.records import FINISHED, WAITING, RunRecord, SweepRecord
from mrcnn_zoo.experiments.runs import RunKey
from mrcnn_zoo.experiments.statistics import IMAGES, SEEDS, SEEDS_AND_IMAGES
from mrcnn_zoo.experiments.sweep_file import Sweep
from mrcnn_zoo.experiments.variants import Variant
from mrcnn_zoo.training.run_context import record_datasets

FOLDS = 3
DATA = ("DATASETS.TRAIN=[shapes_train]", "DATASETS.SCENES.NUM_TRAIN=30", f"DATASETS.FOLDS={FOLDS}")


def coco_results(truth: dict[str, Any], rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What pycocotools measures."""
    of_task = ground_truth_of_task(truth, "bbox")
    curves = curves_by_pycocotools(of_task, detection_set(rows, of_task, "bbox"), "bbox", [100])
    ids, names = zip(*((item["id"], item["name"]) for item in truth["categories"]), strict=True)
    return coco_metrics(curves, names, ids)


def write_run(folder: Path, key: RunKey, share: float, *, shift: float, group: str = "") -> RunRecord:
    """The files of a run that finds a share of the held-out objects of its fold, with boxes off by `shift` pixels."""
    cfg = load_config(None, [*DATA, f"DATASETS.FOLD={key.fold}", *([group] if group else [])])
    loaded = load_train_and_test(cfg)
    truth = complete_ground_truth(loaded.test[0])
    rng = np.random.default_rng([key.seed, key.fold or 0])
    rows = []
    for row in truth["annotations"]:
        if rng.random() < share:
            x, y, width, height = row["bbox"]
            score = round(float(rng.random()) / (1 + (key.fold or 0)), 3)  # another scale in each fold
            box = [x + shift * float(rng.random()), y, width, height]
            rows.append({name: row[name] for name in ("image_id", "category_id")} | {"bbox": box, "score": score})
    run = folder / key.path
    (run / "inference").mkdir(parents=True)
    (run / "config.yaml").write_text(cfg.dump())
    (run / "inference" / "coco_instances_results.json").write_text(json.dumps(rows))
    record_datasets(run, loaded.train, loaded.test, groups=loaded.groups)
    results = {"bbox": coco_results(truth, rows), "classification": {"top1": 50.0 + key.seed + (key.fold or 0)}}
    return RunRecord(key, run, FINISHED, results, run / "inference")


def make_record(folder: Path, *, seeds: tuple[int, ...], group: str = "") -> SweepRecord:
    runs = [
        write_run(folder, RunKey(variant, seed, 1.0, fold), share, shift=shift, group=group)
        for variant, share, shift in (("good", 0.9, 4.0), ("bad", 0.5, 8.0))
        for fold in range(FOLDS)
        for seed in seeds
    ]
    variants = (Variant("good"), Variant("bad"))
    sweep = Sweep("s", folder / "s.yaml", "", folder, variants, seeds, "good", ("bbox/AP",), folds=FOLDS)
    return SweepRecord("s", folder, sweep, tuple(runs))


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> SweepRecord:
    """Two variants, two seeds, three folds of ten images."""
    return make_record(tmp_path_factory.mktemp("folds"), seeds=(0, 1))


@pytest.fixture(scope="module")
def found(record: SweepRecord) -> CrossValidation:
    (found,) = cross_validate(record, resamples=200)
    return found


def test_pooled_value_is_that_of_pycocotools_on_all_results(record: SweepRecord, found: CrossValidation) -> None:
    cfg = load_config(None, DATA)
    truth = complete_ground_truth(load_dataset(cfg, "shapes_train"))
    assert found.pooled is not None
    assert (found.num_images, found.num_groups) == (30, 30)
    for variant in ("good", "bad"):
        for seed in (0, 1):
            runs = [run for run in record.runs if (run.key.variant, run.key.seed) == (variant, seed)]
            files = [run.results_dir / "coco_instances_results.json" for run in runs]
            rows = [row for file in files for row in json.loads(file.read_text())]
            expected = coco_results(truth, rows)["AP"]
            assert found.pooled.row(variant).values[seed] == pytest.approx(expected, abs=1e-9)
            # The scales of the scores differ by fold.
            assert expected != pytest.approx(found.means.row(variant).values[seed], abs=0.1)
    assert "scales of their scores differ" in found.pooled.notes[0]


def test_folds_are_means_over_seeds_and_have_no_interval(record: SweepRecord, found: CrossValidation) -> None:
    for fold in range(FOLDS):
        runs = [run for run in record.runs if (run.key.variant, run.key.fold) == ("bad", fold)]
        assert found.folds["bad"][fold] == pytest.approx(np.mean([run.results["bbox"]["AP"] for run in runs]))
    mean = found.means.row("bad").mean
    assert mean is not None
    assert mean.value == pytest.approx(np.mean(found.folds["bad"]))
    assert mean.covers == SEEDS_AND_IMAGES
    assert "no interval over folds" in found.means.notes[0]


def test_difference_is_paired_over_the_held_out_images(found: CrossValidation) -> None:
    assert found.pooled is not None
    for comparison in (found.means, found.pooled):
        good, bad = comparison.row("good"), comparison.row("bad")
        assert bad.difference is not None
        assert bad.difference.value == pytest.approx(bad.mean.value - good.mean.value)
        assert bad.verdict == "worse"
        assert bad.notes == ()  # the same images


def test_unfinished_fold_leaves_its_seed_out(record: SweepRecord) -> None:
    runs = tuple(
        RunRecord(run.key, run.folder, WAITING) if run.key == RunKey("bad", 1, 1.0, 2) else run for run in record.runs
    )
    (found,) = cross_validate(SweepRecord("s", record.folder, record.sweep, runs), resamples=50)
    bad = found.means.row("bad")
    assert list(bad.values) == [0]
    assert bad.notes[0] == "1 of 2 seeds not finished in all folds"
    assert bad.mean.covers == IMAGES
    assert bad.verdict == "not distinguishable"  # one seed
    waiting = tuple(RunRecord(run.key, run.folder, WAITING) for run in record.runs)
    (nothing,) = cross_validate(SweepRecord("s", record.folder, record.sweep, waiting), resamples=50)
    assert all(map(math.isnan, nothing.folds["good"]))
    assert nothing.pooled is None


def test_other_metrics_have_seeds_alone(record: SweepRecord) -> None:
    (found,) = cross_validate(record, ["classification/top1"])
    assert (found.pooled, found.num_images) == (None, 0)
    assert found.folds["good"] == (50.5, 51.5, 52.5)
    assert found.means.covers == SEEDS


def test_groups_are_drawn_together(tmp_path: Path) -> None:
    grouped = make_record(tmp_path, seeds=(0,), group=r"DATASETS.GROUP=^\d{4}(\d)")
    (found,) = cross_validate(grouped, resamples=50)  # a group of ten scenes in each fold
    assert (found.num_images, found.num_groups) == (30, 3)
    assert found.means.row("good").mean.covers == ""
    assert found.pooled.row("good").mean.covers == IMAGES
    assert found.notes == ("A fold has one group alone, so bbox/AP of its images has no interval.",)


def test_folds_that_are_tested_on_the_same_images_are_not_pooled(
    record: SweepRecord, caplog: pytest.LogCaptureFixture
) -> None:
    first = {(run.key.variant, run.key.seed): run for run in record.runs if run.key.fold == 0}
    runs = tuple(
        RunRecord(run.key, first[run.key.variant, run.key.seed].folder, FINISHED, run.results, other.results_dir)
        for run in record.runs
        for other in [first[run.key.variant, run.key.seed]]
    )
    (found,) = cross_validate(SweepRecord("s", record.folder, record.sweep, runs), resamples=20)
    assert found.pooled is None
    assert "good, seed 0: held-out images neither resampled nor pooled." in found.notes
    (line,) = caplog.messages
    assert "are tested on the same images" in line


def test_variance_of_the_mean_of_folds_is_that_of_independent_samples() -> None:
    rng = np.random.default_rng(0)
    # Means of folds with 4 and 9 units of variance 1: a bootstrap has (n - 1) / n of the variance 1 / n.
    rows = [rng.normal(50, math.sqrt((n - 1) / n / n), 100_000) for n in (4, 9)]
    degrees = 3 + 8
    scaled = mean_of_folds(rows, [4, 9]).var() * (degrees + 1) / degrees  # as `Observations` of degrees + 1 units
    assert scaled == pytest.approx((1 / 4 + 1 / 9) / 4, rel=0.02)
    nothing = np.full(5, math.nan)
    assert mean_of_folds([rows[0][:5], nothing], [4, 9]) == pytest.approx(50, abs=2)
    assert np.isnan(mean_of_folds([nothing], [4])).all()


def test_without_resamples_there_is_a_value(record: SweepRecord) -> None:
    held_out = HeldOut(resamples=0)
    parts = held_out.matches([run for run in record.runs if (run.key.variant, run.key.seed) == ("good", 0)], "bbox/AP")
    evaluated = held_out.evaluate(parts, "bbox/AP")
    assert evaluated.value > 0
    assert (evaluated.pooled, evaluated.mean) == (None, None)

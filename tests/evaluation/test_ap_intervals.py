"""Intervals of EVAL.BOOTSTRAP beside the AP of an evaluation."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mrcnn_zoo.config import load_config
from mrcnn_zoo.data.records import Dataset, ImageRecord, InstanceRecord
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.evaluation import ground_truth_detections
from mrcnn_zoo.evaluation.ap_intervals import image_groups
from mrcnn_zoo.evaluation.bootstrap import ImageMatches, origin_of
from mrcnn_zoo.evaluation.coco import build_coco_evaluator
from mrcnn_zoo.evaluation.tables import Results
from mrcnn_zoo.structures import Sample

SamplesOf = Callable[[Dataset], list[Sample]]


class NamedImage:
    """An image source with a file name."""

    def __init__(self, name: str) -> None:
        self.name = name


@pytest.fixture(scope="module")
def half_found(square: Callable[..., InstanceRecord]) -> Dataset:
    """16 images of 4 slides with two squares, of which the second is missed in half of the slides."""
    instances = (square(0, 0, 20), square(50, 50, 20))
    records = tuple(
        ImageRecord(number, NamedImage(f"/data/slide{number // 4}_{number}.png"), (100, 100), instances)  # type: ignore[arg-type]
        for number in range(16)
    )
    return Dataset(name="slides", records=records, class_names=("cat", "dog"), category_ids=(1, 2))


def evaluated(dataset: Dataset, samples_of: SamplesOf, folder: Path | None = None, **options: object) -> Results:
    overrides = [text for name, value in options.items() for text in (name.replace("__", "."), value)]
    cfg = load_config(None, ["MODEL.MASK_ON", True, *overrides])
    evaluator = build_coco_evaluator(cfg, dataset)
    found = ground_truth_detections(dataset)
    found = [table if number < 8 else table[:1] for number, table in enumerate(found)]
    evaluator.process(samples_of(dataset), found)
    return evaluator.evaluate(folder)


def test_intervals_are_in_the_files_and_the_log_and_not_in_the_results(
    half_found: Dataset, samples_of: SamplesOf, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plain = evaluated(half_found, samples_of)
    caplog.clear()
    with caplog.at_level("INFO"):
        results = evaluated(half_found, samples_of, tmp_path, EVAL__BOOTSTRAP=200)
    np.testing.assert_equal(results, plain)
    content = json.loads((tmp_path / "inference" / "results.json").read_text())
    for task in ("bbox", "segm"):
        found = content[f"{task}_interval"]
        low, high = found["AP_low"], found["AP_high"]
        assert low < results[task]["AP"] < high  # 75 of 101 recall thresholds
        # A share of 1/2 with 16 images has a standard error of 12.5 %, the share of objects half of it.
        assert high - low == pytest.approx(2 * 1.96 * 100 * 0.0625, rel=0.25)
        assert found["AP-cat_low"] == low
        assert found["AP-dog_low"] is None
    page = (tmp_path / "inference" / "results.md").read_text()
    for text in (page, caplog.text):
        assert f"[{low:.1f}, {high:.1f}]" in text
    assert "EVAL.BOOTSTRAP" in page
    rows = tmp_path / "inference" / "coco_instances_results.json"
    assert ImageMatches.load(rows.with_name("image_matches_segm.npz"), origin=origin_of(rows)) is not None


def test_without_the_key_there_are_no_intervals(half_found: Dataset, samples_of: SamplesOf, tmp_path: Path) -> None:
    evaluated(half_found, samples_of, tmp_path)
    content = json.loads((tmp_path / "inference" / "results.json").read_text())
    assert list(content) == ["bbox", "segm"]
    assert "95 %" not in (tmp_path / "inference" / "results.md").read_text()
    assert not list((tmp_path / "inference").glob("image_matches*"))


def test_groups_are_resampled_as_a_whole(half_found: Dataset, samples_of: SamplesOf, tmp_path: Path) -> None:
    widths = []
    for pattern in ("", "(slide[0-9]+)_"):
        evaluated(half_found, samples_of, tmp_path, EVAL__BOOTSTRAP=200, DATASETS__GROUP=pattern)
        found = json.loads((tmp_path / "inference" / "results.json").read_text())["bbox_interval"]
        widths.append(found["AP_high"] - found["AP_low"])
    assert widths[1] > 1.5 * widths[0]  # 4 slides instead of 16 images: twice the standard error
    groups = image_groups(half_found, "(slide[0-9]+)_")
    assert groups is not None
    assert (groups[3], groups[4]) == ("slide0", "slide1")


def test_group_that_does_not_match_is_refused_before_the_evaluation(half_found: Dataset) -> None:
    cfg = load_config(None, ["EVAL.BOOTSTRAP", 10, "DATASETS.GROUP", "(patient[0-9]+)"])
    with pytest.raises(UserError, match=r"DATASETS\.GROUP"):
        build_coco_evaluator(cfg, half_found)
    with pytest.raises(UserError, match=r"DATASETS\.GROUP"):
        image_groups(replace(half_found, records=half_found.records[:1]), "(patient)")

"""Evaluation of a part of the classes at a time, and the rows of a dataset in packed form."""

import json
from pathlib import Path

import numpy as np
import pytest

from mrcnn_zoo.data.records import Dataset
from mrcnn_zoo.evaluation import class_parts, ground_truth_detections
from mrcnn_zoo.evaluation.backends import AP_BACKENDS, Curves
from mrcnn_zoo.evaluation.class_parts import curves_by_parts
from mrcnn_zoo.evaluation.ground_truth import complete_ground_truth
from mrcnn_zoo.evaluation.metrics.contract import Evaluated
from mrcnn_zoo.evaluation.result_rows import PackedRows, RowsOfImages, rows_of_detections, write_rows

LIMITS = (1, 10, 100)


@pytest.fixture(scope="module")
def evaluated(coco_val: Dataset) -> Evaluated:
    packed = {
        record.image_id: PackedRows.of(
            rows_of_detections(table[::2], record.image_id, category_ids=coco_val.category_ids, tasks=("bbox", "segm"))
        )
        for record, table in zip(coco_val.records, ground_truth_detections(coco_val), strict=True)
    }
    return Evaluated(complete_ground_truth(coco_val), RowsOfImages(packed), ("bbox", "segm"), coco_val.name)


@pytest.mark.parametrize("task", ["bbox", "segm"])
@pytest.mark.parametrize("backend", ["pycocotools", "hotcoco"])
def test_curves_and_matches_of_parts_are_those_of_all_classes(
    evaluated: Evaluated, monkeypatch: pytest.MonkeyPatch, backend: str, task: str
) -> None:
    if backend != "pycocotools":
        pytest.importorskip(backend)
    numbers_of_parts = []
    compute = AP_BACKENDS.get(backend)
    whole: Curves = compute(evaluated.ground_truth_of(task), evaluated.detections_of(task), task, LIMITS)

    def counted(truth, detections, task, limits):
        numbers_of_parts.append(len(detections["annotations"]))
        return compute(truth, detections, task, limits)

    monkeypatch.setattr(class_parts, "MOST_DETECTIONS", 30)
    parts = curves_by_parts(counted, evaluated, task, LIMITS)
    assert len(numbers_of_parts) > 4
    assert sum(numbers_of_parts) == len(evaluated.rows)
    assert (whole.precision > 0).any()
    np.testing.assert_array_equal(parts.precision, whole.precision)
    np.testing.assert_array_equal(parts.recall, whole.recall)
    assert whole.matches
    assert (parts.matches is None) == (task == "bbox")
    for category, matches in whole.matches.items() if parts.matches else ():
        np.testing.assert_array_equal(parts.matches[category].is_true, matches.is_true)
        assert parts.matches[category].num_objects == matches.num_objects


def test_packed_rows_are_a_sequence_of_rows(evaluated: Evaluated, tmp_path: Path) -> None:
    rows = list(evaluated.rows)
    assert len(evaluated.rows) == len(rows) > 100
    assert [evaluated.rows[number] for number in range(-3, 40)] == [*rows[-3:], *rows[:40]]
    assert evaluated.rows[5:9] == rows[5:9]
    with pytest.raises(IndexError):
        evaluated.rows[len(rows)]
    assert json.loads(write_rows(tmp_path / "rows.json", evaluated.rows).read_text()) == rows
    assert write_rows(tmp_path / "none.json", RowsOfImages({})).read_text() == "[]"

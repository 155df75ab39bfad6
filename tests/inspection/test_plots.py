"""Plots as PNG files."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mrcnn_zoo.errors import UserError
from mrcnn_zoo.evaluation.backends import AREAS
from mrcnn_zoo.evaluation.proposal_comparison import NUMBERS, THRESHOLDS, SourceRecall
from mrcnn_zoo.evaluation.proposals import RecallCounts
from mrcnn_zoo.inspection.figures import confusion_figure, save_figure
from mrcnn_zoo.inspection.plots import (
    read_metrics,
    save_loss_curves,
    save_precision_recall,
    save_proposal_recall,
)


def is_png(path) -> bool:
    with Image.open(path) as image:
        image.load()
        return image.format == "PNG" and image.width > 100


def test_read_metrics_skips_an_incomplete_line(tmp_path) -> None:
    file = tmp_path / "metrics.json"
    lines = [{"iteration": 9, "total_loss": 2.5, "lr": 0.1}, {"iteration": 19, "total_loss": None, "bbox/AP": 3}]
    file.write_text("\n".join(map(json.dumps, lines)) + '\n{"iteration": 29, "tot')
    assert read_metrics(file) == {"total_loss": ([9], [2.5]), "lr": ([9], [0.1]), "bbox/AP": ([19], [3])}
    file.write_bytes(b'\xff\x00\n{"iteration": 9, "lr": 0.1}\n')  # after a power failure
    assert read_metrics(file) == {"lr": ([9], [0.1])}


def test_loss_curves_are_drawn_with_and_without_validation(tmp_path) -> None:
    file = tmp_path / "metrics.json"
    training = [{"iteration": i, "total_loss": 1 / (i + 1), "loss_cls": 0.5 / (i + 1), "lr": 0.1} for i in range(50)]
    file.write_text("\n".join(map(json.dumps, training)))
    assert is_png(save_loss_curves(file, tmp_path / "pictures" / "losses.png"))
    with file.open("a") as lines:
        lines.write("\n" + json.dumps({"iteration": 49, "val/total_loss": 0.3, "bbox/AP": 12.0, "segm/AP": 9.0}))
    assert is_png(save_loss_curves(file, tmp_path / "with_validation.png"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.json", "pictures", "with_validation.png"]


def test_loss_curves_are_drawn_for_one_iteration_or_one_evaluation(tmp_path) -> None:
    file = tmp_path / "metrics.json"
    for line in ({"iteration": 0, "total_loss": 0.0}, {"iteration": 0, "bbox/AP": 1.0}):
        file.write_text(json.dumps(line))
        assert is_png(save_loss_curves(file, tmp_path / "losses.png"))


@pytest.mark.parametrize("content", ["", "\n", '{"iter'])
def test_loss_curves_refuse_a_file_without_metrics(tmp_path, content: str) -> None:
    file = tmp_path / "metrics.json"
    file.write_text(content)
    with pytest.raises(UserError, match="has no metrics yet"):
        save_loss_curves(file, tmp_path / "losses.png")
    assert not (tmp_path / "losses.png").exists()


def test_missing_metrics_file_is_named(tmp_path) -> None:
    with pytest.raises(UserError, match=r"metrics\.json is missing"):
        save_loss_curves(tmp_path / "metrics.json", tmp_path / "losses.png")


@pytest.mark.parametrize("num_classes", [1, 3, 80])
def test_precision_over_recall_is_drawn_with_classes_without_objects(tmp_path, num_classes: int) -> None:
    precision = np.tile(np.linspace(1, 0, 101, dtype=np.float32)[None, :, None], (10, 1, num_classes))
    precision[:, :, -1] = -1
    names = np.array([f"class {index}" for index in range(num_classes)])
    np.savez_compressed(tmp_path / "curves.npz", bbox=precision, segm=precision, class_names=names)
    assert is_png(save_precision_recall(tmp_path / "curves.npz", tmp_path / "curves.png"))


def test_class_names_outside_of_the_font_give_no_warning(tmp_path: Path) -> None:
    names = ["\N{CJK UNIFIED IDEOGRAPH-732B}", "background"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert is_png(save_figure(confusion_figure(np.eye(2, dtype=np.int64), names), tmp_path / "matrix.png"))


@pytest.mark.parametrize("num_classes", [1, 2, 80])
def test_confusion_matrix_is_drawn_empty_or_full(tmp_path, num_classes: int) -> None:
    names = [*(f"class {index}" for index in range(num_classes)), "background"]
    empty = np.zeros((num_classes + 1, num_classes + 1), dtype=np.int64)
    assert is_png(save_figure(confusion_figure(empty, names), tmp_path / "empty.png"))
    full = np.eye(num_classes + 1, dtype=np.int64)
    assert is_png(save_figure(confusion_figure(full, names), tmp_path / "full.png"))


def test_recall_of_proposals_is_drawn_with_a_legend_below(tmp_path) -> None:
    found = np.zeros((len(AREAS), len(THRESHOLDS), len(NUMBERS)), dtype=np.int64)
    counts = RecallCounts(found, np.array([4, 4, 0, 0]))
    results = [SourceRecall(f"source {number}", counts, 2, 20, 0.1) for number in range(12)]
    path = save_proposal_recall(results, tmp_path / "pictures" / "proposals.png", title="squares")
    assert is_png(path)
    with Image.open(path) as image:
        assert image.height == pytest.approx(110 * (4.5 + 5 * 0.22), abs=1)  # inches of the plots and of 5 rows

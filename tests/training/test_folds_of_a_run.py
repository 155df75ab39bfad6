"""A run on a fold: leakage, evaluation of its checkpoint, resume, and a fraction of the images."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mrcnn_zoo.cli.evaluate import main as evaluate
from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.data.formats.object_crops import CropImage
from mrcnn_zoo.data.loading import loader
from mrcnn_zoo.training.run import run

LoadConfig = Callable[..., CfgNode]
FOLD = (
    *("DATASETS.FOLDS=3", "DATASETS.FOLD=1", "DATASETS.SCENES.NUM_TRAIN=12", "DATASETS.TEST=[shapes_train]"),
    *("SOLVER.TRAINING_SCHEDULE=backbone_pretraining", "SOLVER.STAGE_SHARES=[0.5, 0.5]", "SOLVER.MAX_ITER=4"),
    *("MODEL.ROI_HEADS.SCORE_THRESH_TEST=0.0", "SEED=1"),
)


@pytest.fixture
def trained_scenes(monkeypatch: pytest.MonkeyPatch) -> dict[str, set[int]]:
    """Ids of the scenes that training loaders map into samples, by the kind of their images."""
    ids: dict[str, set[int]] = {"crops": set(), "images": set()}
    build = loader.build_train_mapper

    def build_noting(*arguments: Any) -> Any:
        mapper = build(*arguments)

        def noting(record: Any, *others: Any) -> Any:
            is_crop = isinstance(record.source, CropImage)
            scene = record.source.source if is_crop else record.source
            ids["crops" if is_crop else "images"].add(scene.index + 1)
            return mapper(record, *others)

        return noting

    monkeypatch.setattr(loader, "build_train_mapper", build_noting)
    return ids


def weights_in(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "model_final.pth", weights_only=False)["model"]


def rows_in(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "inference" / "coco_instances_results.json").read_text())


def test_held_out_images_are_evaluated_and_never_trained_on(
    tiny_config: LoadConfig, tmp_path: Path, trained_scenes: dict[str, set[int]]
) -> None:
    cfg = tiny_config(*FOLD)
    folder = Path(cfg.OUTPUT_DIR)
    run(cfg)
    rows = rows_in(folder / "detector")
    held_out = {row["image_id"] for row in rows}
    assert len(held_out) == 4
    assert not (trained_scenes["crops"] | trained_scenes["images"]) & held_out
    assert len(trained_scenes["images"]) >= 4
    assert len(trained_scenes["crops"]) >= 2

    counts = json.loads((folder / "detector" / "datasets.json").read_text())
    assert (counts["train"]["shapes_train"]["images"], counts["test"]["shapes_train"]["images"]) == (8, 4)
    assert evaluate(["--weights", str(folder), "--output", str(tmp_path / "again")]) == 0
    assert rows_in(tmp_path / "again") == rows
    alone = tiny_config(*FOLD, f"MODEL.WEIGHTS={folder / 'model_final.pth'}", f"OUTPUT_DIR={tmp_path / 'alone'}")
    run(alone, eval_only=True)
    assert rows_in(tmp_path / "alone") == rows


def test_resumed_fraction_of_a_fold_has_the_same_weights(
    tiny_config: LoadConfig, trained_scenes: dict[str, set[int]]
) -> None:
    overrides = (*FOLD, "SOLVER.TRAINING_SCHEDULE=joint", "DATASETS.FRACTION=0.5", "TEST.VAL_LOSS=True")
    cfg = tiny_config(*overrides, "SOLVER.CHECKPOINT_PERIOD=2", "SOLVER.MAX_ITER=4")
    folder = Path(cfg.OUTPUT_DIR)
    run(cfg)
    undisturbed = weights_in(folder)
    assert '"val/total_loss"' in (folder / "metrics.json").read_text()
    assert len(trained_scenes["images"]) <= 4  # half of the 8 outside of the fold
    scenes = set(trained_scenes["images"])
    (folder / "last_checkpoint").write_text("model_0000001.pth")
    # Another seed would choose other images: a resumed run keeps its own.
    run(tiny_config(*overrides, "SOLVER.CHECKPOINT_PERIOD=2", "SOLVER.MAX_ITER=4", "SEED=2"), resume=True)
    resumed = weights_in(folder)
    assert all(torch.equal(value, resumed[name]) for name, value in undisturbed.items())
    assert trained_scenes["images"] == scenes

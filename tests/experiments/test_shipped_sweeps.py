"""The sweeps of the package: each is read, and every variant of the small ones trains for one iteration."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mrcnn_zoo.config import CfgNode, changed_config
from mrcnn_zoo.config.files import CHECKOUT, is_place_of_sweep
from mrcnn_zoo.experiments.identity import leaves_of
from mrcnn_zoo.experiments.runs import FINAL_WEIGHTS, RunSpec, expand
from mrcnn_zoo.experiments.sweep_file import read_sweep
from mrcnn_zoo.training import run

FOLDER = CHECKOUT / "configs" / "Sweeps"
SWEEPS = sorted(path for path in FOLDER.rglob("*.yaml") if is_place_of_sweep(path))
SMALL = [path for path in SWEEPS if path.parent == FOLDER]
LONG = {"alternating", "founding_experiment"}  # of several trainings per variant
LIKE_OTHERS = {  # whose variants differ in keys that tests of the components train with, too
    *("augmentations_digits", "anchors_digits", "pyramid_digits", "focal_loss_shapes", "box_loss_digits"),
    *("roi_layer_stride_32_shapes", "norms_digits", "image_size_digits", "founding_experiment_shapes"),
}
WITH_MARKS = [pytest.param(path, marks=[pytest.mark.slow] * (path.stem in LONG | LIKE_OTHERS)) for path in SMALL]
TRAINED: set[str] = set()  # configs of this test
SHORT = {"MAX_ITER": 1, "IMS_PER_BATCH": 1, "WARMUP_ITERS": 0}


def shortened(value: Any) -> Any:
    """A value of SOLVER.STAGE_OVERRIDES or SOLVER.STAGES with the lengths of SHORT."""
    if isinstance(value, Mapping):
        return {name: SHORT.get(name.rpartition(".")[2], shortened(below)) for name, below in value.items()}
    return [shortened(item) for item in value] if isinstance(value, list) else value


def for_one_iteration(cfg: CfgNode, folder: Path) -> CfgNode:
    """The config of a run with an iteration or two per stage, on ten scenes of half the size, without evaluation."""
    solver, sizes = cfg.SOLVER, cfg.INPUT
    changes: dict[str, Any] = {
        "OUTPUT_DIR": str(folder),
        "SOLVER.MAX_ITER": 1 if solver.TRAINING_SCHEDULE == "joint" else 10,  # of all stages
        **{f"SOLVER.{name}": SHORT[name] for name in ("IMS_PER_BATCH", "WARMUP_ITERS")},
        "SOLVER.STAGE_OVERRIDES": shortened(solver.STAGE_OVERRIDES),
        **({"SOLVER.STAGES": shortened(solver.STAGES)} if solver.STAGES else {}),
        "DATASETS.TEST": [],
        "WRITERS": [],
        "DATASETS.SCENES": {"NUM_TRAIN": 10, "NUM_OBJECTS": [1, 4], "IMAGE_SIZE": [64, 64], "OBJECT_SIZE": [16, 32]},
        "INPUT.MIN_SIZE_TRAIN": [side // 2 for side in sizes.MIN_SIZE_TRAIN],
        "INPUT.MAX_SIZE_TRAIN": sizes.MAX_SIZE_TRAIN // 2,
    }
    return changed_config(cfg, changes, source="test")


def is_new(cfg: CfgNode) -> bool:
    """Whether no call before had an equal config; its folder and the names of the run do not count."""
    key = str(dict(leaves_of(cfg)))
    is_first = key not in TRAINED
    TRAINED.add(key)
    return is_first


def runs_of_one_seed(path: Path) -> list[RunSpec]:
    """The runs of the first seed, each after those that it takes weights from."""
    sweep = read_sweep(path)
    return expand(replace(sweep, seeds=sweep.seeds[:1]))


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.relative_to(FOLDER).as_posix())
def test_every_sweep_is_found_by_its_name_and_has_a_title_and_columns(path: Path) -> None:
    sweep = read_sweep(path.stem)
    assert sweep.file == path
    assert sweep.title
    assert sweep.columns


@pytest.mark.parametrize("path", [path for path in SWEEPS if path not in SMALL], ids=lambda path: path.stem)
def test_every_variant_on_coco_has_a_config(path: Path) -> None:
    assert {spec.key.variant for spec in runs_of_one_seed(path)} == {item.name for item in read_sweep(path).variants}


@pytest.mark.parametrize("path", WITH_MARKS, ids=lambda path: path.stem)
def test_every_variant_of_a_small_sweep_trains(path: Path, tmp_path: Path) -> None:
    runs = {spec.key.variant: spec for spec in runs_of_one_seed(path)}.values()  # of several fractions the last
    sources = {key.variant for spec in runs for key in spec.sources}
    for spec in runs:
        cfg = for_one_iteration(spec.cfg, tmp_path / spec.key.variant)
        if not (is_new(cfg) or spec.key.variant in sources):
            continue  # such as `{}` of many sweeps, and lengths that are all one iteration here
        if spec.sources:  # with all weights of the variant, of which the run may take a part
            weights = tmp_path / spec.sources[0].variant / FINAL_WEIGHTS
            cfg = changed_config(cfg, {"MODEL.WEIGHTS": str(weights)}, source="test")
        run(cfg)
        assert (tmp_path / spec.key.variant / FINAL_WEIGHTS).is_file()

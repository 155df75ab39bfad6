"""The runs of a sweep: their keys, configs, order and files."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mrcnn_zoo.config import load_config
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.experiments.plan import sweep_copy
from mrcnn_zoo.experiments.runs import RunKey, expand, run_keys, write_base_configs, write_run_config
from mrcnn_zoo.experiments.sweep_file import Sweep, read_sweep

ReadSweep = Callable[..., Sweep]


@pytest.fixture
def read(tmp_path: Path) -> ReadSweep:
    """Reads a sweep over a config that is based on another one; its folder is a temporary one."""
    (tmp_path / "Root.yaml").write_text("SOLVER: {MAX_ITER: 90000, WARMUP_ITERS: 1000, BASE_LR: 0.02}\n")
    (tmp_path / "Base.yaml").write_text(
        "_BASE_: Root.yaml\nSOLVER: {BASE_LR: 0.01}\nDATASETS: {TRAIN: [shapes_train]}\n"
    )

    def read_text(text: str) -> Sweep:
        path = tmp_path / "my_sweep.yaml"
        path.write_text(f"BASE: Base.yaml\nOUTPUT_DIR: {tmp_path / 'out'}\n{text}\n")
        return read_sweep(path)

    return read_text


def test_runs_are_variants_times_fractions_times_folds_times_seeds(read: ReadSweep) -> None:
    sweep = read("VARIANTS: {a: {}, b: {FRACTION: 0.5}}\nDATA_FRACTIONS: [0.25, 1.0]\nFOLDS: 2\nSEEDS: [4]")
    assert [str(key) for key in run_keys(sweep)] == [
        "a/fraction_0.25/fold_0/seed_4",
        "a/fraction_0.25/fold_1/seed_4",
        "a/fold_0/seed_4",
        "a/fold_1/seed_4",
        "b/fraction_0.5/fold_0/seed_4",
        "b/fraction_0.5/fold_1/seed_4",
    ]


def test_the_config_of_a_run_has_its_seed_folder_share_and_fold(read: ReadSweep) -> None:
    sweep = read("VARIANTS: {a: {SOLVER.BASE_LR: 0.5}}\nDATA_FRACTIONS: [0.25]\nFOLDS: 2\nGROUP: (p_)\nSEEDS: [4]")
    second = expand(sweep)[1]
    assert second.key == RunKey("a", 4, 0.25, 1)
    cfg = second.cfg
    assert str(second.folder) == cfg.OUTPUT_DIR
    assert (cfg.SEED, cfg.SOLVER.BASE_LR) == (4, 0.5)
    assert (cfg.DATASETS.FRACTION, cfg.DATASETS.FOLDS, cfg.DATASETS.FOLD, cfg.DATASETS.GROUP) == (0.25, 2, 1, "(p_)")


def test_a_group_keeps_images_together_in_shares_of_the_data_without_folds(read: ReadSweep) -> None:
    sweep = read("DATA_FRACTIONS: [0.25, 1.0]\nGROUP: (p_)")
    found = [(run.cfg.DATASETS.FRACTION, run.cfg.DATASETS.GROUP) for run in expand(sweep)]
    assert found == [(0.25, "(p_)"), (1.0, "(p_)")]


def test_variants_count_before_typed_keys_and_these_before_the_base(read: ReadSweep) -> None:
    sweep = read("VARIANTS: {a: {}, b: {SOLVER.BASE_LR: 0.5}}")
    plain, changed = expand(sweep, overrides=["SOLVER.BASE_LR", "0.3", "LOG_PERIOD=7"])
    assert (plain.cfg.SOLVER.BASE_LR, plain.cfg.LOG_PERIOD) == (0.3, 7)
    assert (changed.cfg.SOLVER.BASE_LR, changed.cfg.LOG_PERIOD) == (0.5, 7)
    for key in ("SEED=1", "OUTPUT_DIR=x"):
        with pytest.raises(UserError, match="differs between the runs of a sweep"):
            expand(sweep, overrides=[key])


def test_runs_come_after_those_they_start_from_and_seed_by_seed(read: ReadSweep) -> None:
    sweep = read("VARIANTS: {c: {FROM: b}, b: {FROM: {backbone: a}}, a: {}}\nSEEDS: [0, 1]")
    specs = expand(sweep)
    assert [str(spec.key) for spec in specs] == [f"{name}/seed_{seed}" for seed in (0, 1) for name in "abc"]
    a, b, c = specs[:3]
    assert (a.sources, b.sources, c.sources) == ((), (a.key,), (b.key,))
    assert str(b.folder / "model_final.pth") == c.cfg.MODEL.WEIGHTS
    assert str(b.folder / "initial_weights.pth") == b.cfg.MODEL.WEIGHTS


def test_a_source_has_the_same_share_or_its_only_one(read: ReadSweep) -> None:
    sweep = read("VARIANTS: {a: {}, b: {FROM: a}, c: {FROM: d}, d: {FRACTION: 1.0}}\nDATA_FRACTIONS: [0.1, 0.5]")
    sources = {str(spec.key): [str(key) for key in spec.sources] for spec in expand(sweep)}
    assert sources["b/fraction_0.1/seed_0"] == ["a/fraction_0.1/seed_0"]
    assert sources["c/fraction_0.5/seed_0"] == ["d/seed_0"]
    sweep = read("VARIANTS: {a: {}, b: {FROM: a, FRACTION: 1.0}}\nDATA_FRACTIONS: [0.1, 0.5]")
    with pytest.raises(
        UserError, match=r"'b' with the share 1 of the data starts FROM 'a', which has only .* 0.1, 0.5"
    ):
        expand(sweep)


def test_weights_that_from_replaces_are_refused(read: ReadSweep) -> None:
    sweep = read("VARIANTS: {a: {}, b: {FROM: a, MODEL.WEIGHTS: x.pth}}")
    with pytest.raises(UserError, match=r"FROM replaces all weights, so MODEL.WEIGHTS has no effect"):
        expand(sweep)


# --- files ------------------------------------------------------------------------------------------------------------


def test_written_configs_load_alone_with_the_same_values_and_priorities(read: ReadSweep, tmp_path: Path) -> None:
    text = "VARIANTS: {a: {DATASETS.DEFINITIONS: {my.data: {FORMAT: coco, IMAGES: x}}, SOLVER.MAX_EPOCHS: 2}}"
    sweep = read(text)
    (spec,) = expand(sweep, overrides=["SOLVER.WARMUP_ITERS=5"])
    path = write_run_config(spec, write_base_configs(sweep, ["SOLVER.WARMUP_ITERS=5"])[sweep.base])
    for name in ("Root.yaml", "Base.yaml"):
        (tmp_path / name).unlink()
    loaded = load_config(path)
    assert loaded.dump() == spec.cfg.dump()
    keys = ["SOLVER.MAX_ITER", "SOLVER.BASE_LR", "SOLVER.WARMUP_ITERS", "SOLVER.MAX_EPOCHS"]
    ranks = [loaded.closeness_of(key) for key in keys]
    assert ranks == sorted(set(ranks))
    assert [spec.cfg.closeness_of(key) for key in keys] == ranks


def test_the_folder_of_a_sweep_can_be_moved(read: ReadSweep, tmp_path: Path) -> None:
    sweep = read("VARIANTS: {a: {SOLVER.BASE_LR: 0.5}}")
    (spec,) = expand(sweep)
    write_run_config(spec, write_base_configs(sweep)[sweep.base])
    shutil.move(tmp_path / "out", tmp_path / "moved")
    assert load_config(tmp_path / "moved" / "a" / "seed_0" / "run.yaml").dump() == spec.cfg.dump()


def test_the_copy_of_a_sweep_describes_the_same_runs(read: ReadSweep, tmp_path: Path) -> None:
    sweep = read(
        "TITLE: t\nNOTE: n\nVARIANTS: {a: {BASE: Root.yaml}, b: {FROM: {backbone: a}, FRACTION: 0.5, NOTE: x}}\n"
        "GRID: {SOLVER.BASE_LR: [0.1, 0.2]}\nSEEDS: [1, 2]\nREFERENCE: b\nCOLUMNS: [bbox/AP]\nFOLDS: 2\nGROUP: (g)\n"
        "PAPER: {SOURCE: s, ROWS: {a: {bbox/AP: 3.5}}}\nSPACE: {SOLVER.BASE_LR: [0, 1]}"
    )
    bases = write_base_configs(sweep)
    copy = tmp_path / "out" / "sweep.yaml"
    copy.write_text(sweep_copy(sweep, bases))
    again = read_sweep(copy)
    for name in ("name", "seeds", "reference", "columns", "folds", "group", "paper", "space", "title", "note"):
        assert getattr(again, name) == getattr(sweep, name), name
    assert [spec.cfg.dump() for spec in expand(again)] == [spec.cfg.dump() for spec in expand(sweep)]

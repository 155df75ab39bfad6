"""The hash of a run: which config keys and files it covers, and which not."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from mrcnn_zoo.experiments import identity as module
from mrcnn_zoo.experiments.identity import Identity, identities
from mrcnn_zoo.experiments.runs import RunKey, expand
from mrcnn_zoo.experiments.sweep_file import read_sweep


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with an image and annotations, which need not be valid to be hashed."""
    (tmp_path / "data" / "images").mkdir(parents=True)
    (tmp_path / "data" / "images" / "1.png").write_bytes(b"12345")
    (tmp_path / "data" / "annotations.json").write_text("{}")
    return tmp_path / "data"


def identity(data: Path, text: str = "", overrides: Sequence[str] = (), *, output: str = "out") -> dict[str, Identity]:
    """The identities of a sweep's runs by their name."""
    definition = {"FORMAT": "coco", "IMAGES": str(data / "images"), "ANNOTATIONS": str(data / "annotations.json")}
    base = {"DATASETS": {"DEFINITIONS": {"mine": definition}, "TRAIN": ["mine"], "TEST": ["shapes_val"]}}
    (data.parent / "base.yaml").write_text(json.dumps(base))
    path = data.parent / "sweep.yaml"
    path.write_text(f"BASE: base.yaml\nOUTPUT_DIR: {data.parent / output}\n{text}\n")
    found = identities(expand(read_sweep(path), overrides=overrides))
    return {str(key): value for key, value in found.items()}


def hash_of(data: Path, *overrides: str) -> str:
    return identity(data, overrides=overrides)["base/seed_0"].hash


@pytest.mark.parametrize(
    "override",
    [
        "SOLVER.BASE_LR=0.5",
        "MODEL.WEIGHTS=x.pth",
        "DATASETS.TEST=shapes_train",
        "DATASETS.SCENES.NOISE=0.5",
        "TEST.EVAL_PERIOD=7",
    ],
)
def test_keys_that_change_results_change_the_hash(override: str, data: Path) -> None:
    assert hash_of(data, override) != hash_of(data)


@pytest.mark.parametrize(
    "override",
    [
        "MODEL.DEVICE=cpu",
        "DATALOADER.NUM_WORKERS=0",
        "WRITERS=json",
        "WANDB.PROJECT=x",
        "VIS.NUM_IMAGES=1",
        "LOG_PERIOD=3",
        "SOLVER.CHECKPOINT_PERIOD=3",
        "TEST.EXPECTED_RESULTS=[[bbox, AP, 1, 1]]",
    ],
)
def test_keys_that_change_no_result_leave_the_hash(override: str, data: Path) -> None:
    assert hash_of(data, override) == hash_of(data)


def test_the_folder_does_not_count_and_the_seed_does(data: Path) -> None:
    text = "SEEDS: [0, 1]\nVARIANTS: {a: {}, b: {FROM: a}, c: {FROM: {backbone: a}}}"
    here, there = identity(data, text), identity(data, text, output="elsewhere")
    assert {name: value.hash for name, value in here.items()} == {name: value.hash for name, value in there.items()}
    assert len({value.hash for value in here.values()}) == 6


def test_files_of_datasets_count(data: Path) -> None:
    hashes = [hash_of(data)]
    (data / "annotations.json").write_text("[]")
    hashes.append(hash_of(data))
    (data / "images" / "1.png").write_bytes(b"123456")
    hashes.append(hash_of(data))
    (data / "images" / "1.png").rename(data / "images" / "2.png")
    hashes.append(hash_of(data))
    assert len(set(hashes)) == 4
    (data / "images" / "2.png").write_bytes(b"654321")  # only names and sizes of images count
    assert hash_of(data) == hashes[-1]


def test_a_run_depends_on_the_run_that_its_weights_come_from(data: Path) -> None:
    text = "VARIANTS: {{a: {{SOLVER.BASE_LR: {rate}}}, b: {{FROM: {{backbone: a}}}}, c: {{FROM: b}}, d: {{}}}}"
    before, after = (identity(data, text.format(rate=rate)) for rate in (0.1, 0.2))
    changed = {name for name in before if before[name].hash != after[name].hash}
    assert changed == {"a/seed_0", "b/seed_0", "c/seed_0"}
    assert after["c/seed_0"].changes_from(before["c/seed_0"].record()) == ["the run that FROM all names"]


def test_changes_name_keys_and_data_with_both_values(data: Path) -> None:
    record = json.loads(json.dumps(identity(data)["base/seed_0"].record()))
    assert identity(data)["base/seed_0"].changes_from(record) == []
    (data / "annotations.json").write_text("[]")
    changes = identity(data, overrides=["SOLVER.STEPS=[5, 6]"])["base/seed_0"].changes_from(record)
    assert changes == ["SOLVER.STEPS = [5, 6] (it was [30000])", "the files of dataset mine"]


def test_a_version_with_another_key_changes_no_hash(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new = identity(data)["base/seed_0"]
    record = new.record()
    former = {name: value for name, value in record["config"].items() if name != "SOLVER.NESTEROV"}
    assert len(former) < len(record["config"])
    assert new.changes_from({**record, "config": former}) == []
    assert Identity(former, new.data, new.sources).hash == new.hash
    # A key that only the former version had, at any value, is no key of today.
    assert new.changes_from({**record, "config": {**former, "SOLVER.GONE": 3}}) == []
    # A default that has changed since then is a change.
    monkeypatch.setattr(module, "_default", {"SOLVER.MOMENTUM": 0.5}.get)
    later = Identity({**new.config, "SOLVER.MOMENTUM": 0.5}, new.data, new.sources)
    assert later.changes_from(record) == ["SOLVER.MOMENTUM = 0.5 (it was 0.9)"]


def test_files_of_a_dataset_are_read_once_per_sweep(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    original = module.hash_of_files
    monkeypatch.setattr(module, "hash_of_files", lambda name, found: read.append(name) or original(name, found))
    found = identity(data, "SEEDS: [0, 1, 2]")
    assert sorted(read) == ["mine", "shapes_val"]
    assert all(value.data.keys() == {"mine"} for value in found.values())  # generated data have no files


def test_keys_of_runs_are_their_folders() -> None:
    assert RunKey("a", 3, 0.1, 0).path == Path("a/fraction_0.1/fold_0/seed_3")

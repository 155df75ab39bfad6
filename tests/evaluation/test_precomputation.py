"""Proposals of a dataset in parts: interruption, resume, several processes."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mrcnn_zoo.config import CfgNode, changed_config, load_config
from mrcnn_zoo.data import load_dataset
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.evaluation import precomputation
from mrcnn_zoo.evaluation.precomputation import Precomputation, plan_precomputation, precompute
from mrcnn_zoo.evaluation.proposal_jobs import build_job_without_network, fit_min_box_area
from support.small_models import DIGITS, TINY_LAYERS

pytest.importorskip("cv2", reason='needs OpenCV: pip install "mrcnn_zoo[proposals]"')
KEYS = (
    *TINY_LAYERS,
    "MODEL.PROPOSAL_GENERATOR.NAME=SelectiveSearch",
    "DATASETS.SCENES.NUM_TRAIN=4",
    "DATASETS.SCENES.NUM_VAL=5",
    "DATASETS.SCENES.IMAGE_SIZE=[64,64]",
    "DATASETS.TRAIN=()",
    "INPUT.MIN_SIZE_TEST=0",
    "TEST.BATCH_SIZE=2",
    "DATALOADER.NUM_WORKERS=0",
)


@pytest.fixture(scope="module")
def cfg() -> CfgNode:
    return load_config(DIGITS, KEYS)


@pytest.fixture
def plan(cfg: CfgNode, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Precomputation]:
    """Plans of three parts, of two, two and one image."""
    monkeypatch.setattr(precomputation, "IMAGES_PER_PART", 2)

    def make(path: Path) -> Precomputation:
        job, _ = build_job_without_network(cfg)
        return plan_precomputation(job, load_dataset(cfg, "digits_val"), path)

    return make


def undisturbed(plan: Precomputation) -> bytes:
    plan.start(resume=False, overwrite=False)
    precompute(plan)
    plan.finish()
    assert not plan.folder.exists()
    return plan.path.read_bytes()


@pytest.mark.parametrize("suffix", [".npz", ".pkl"])
def test_interrupted_and_resumed_file_is_that_of_an_undisturbed_run(
    plan: Callable[..., Precomputation], tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = undisturbed(plan(tmp_path / "a" / f"whole{suffix}"))
    cut = plan(tmp_path / "b" / f"whole{suffix}")
    cut.start(resume=True, overwrite=False)
    write = precomputation.write_proposals

    def write_two(path: Path, *arguments: object) -> None:
        if path.name == "000001.npz":
            path.with_name(f".{path.name}.1.unfinished").write_bytes(b"half of a part")
            raise KeyboardInterrupt
        write(path, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(precomputation, "write_proposals", write_two)
        with pytest.raises(KeyboardInterrupt):
            precompute(cut)
    finished = cut.part_file(0).stat().st_mtime_ns
    again = plan(tmp_path / "b" / f"whole{suffix}")
    again.start(resume=True, overwrite=False)
    precompute(again)
    assert cut.part_file(0).stat().st_mtime_ns == finished
    again.finish()
    assert cut.path.read_bytes() == expected
    assert [path.name for path in cut.path.parent.iterdir()] == [f"whole{suffix}"]


def test_workers_compute_the_same_parts_in_any_order(plan: Callable[..., Precomputation], tmp_path: Path) -> None:
    expected = undisturbed(plan(tmp_path / "a" / "whole.npz"))
    other = plan(tmp_path / "b" / "whole.npz")
    other.start(resume=False, overwrite=False)
    job = precomputation.pickled_job(other.job)
    for number, part in reversed([*enumerate(other.parts())]):
        precomputation.compute_part(job, part, other.part_file(number))
    other.finish()
    assert other.path.read_bytes() == expected


def test_unfinished_parts_need_resume_or_overwrite(
    plan: Callable[..., Precomputation], cfg: CfgNode, tmp_path: Path
) -> None:
    begun = plan(tmp_path / "whole.npz")
    begun.start(resume=False, overwrite=False)
    begun.part_file(0).write_bytes(b"")
    with pytest.raises(UserError, match=r"unfinished proposals: continue them with --resume, or .*--overwrite"):
        begun.start(resume=False, overwrite=False)
    changed = cfg.clone()
    changed.defrost()
    changed.MODEL.SELECTIVE_SEARCH.BASE_K = 100
    job, _ = build_job_without_network(changed)
    other = plan_precomputation(job, load_dataset(changed, "digits_val"), tmp_path / "whole.npz")
    with pytest.raises(UserError, match=r"whole\.npz\.parts has proposals of another computation \(other settings\)"):
        other.start(resume=True, overwrite=False)
    other.start(resume=False, overwrite=True)
    assert [path.name for path in other.folder.iterdir()] == ["origin.json"]
    begun.start(resume=False, overwrite=False)  # no part was finished
    assert json.loads((begun.folder / "origin.json").read_text())["settings"] == begun.origin.settings


def test_min_box_area_follows_the_smallest_object(cfg: CfgNode) -> None:
    key = "MODEL.SELECTIVE_SEARCH.MIN_BOX_AREA"
    dataset = load_dataset(cfg, "digits_val")
    boxes = [item.box for record in dataset.records for item in record.instances]
    smallest = min((x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in boxes)
    half_size = changed_config(cfg, {"INPUT.MIN_SIZE_TRAIN": [32]})  # of 64 x 64 pixels
    assert fit_min_box_area(half_size, [dataset]).value_of(key) == max(smallest / 4 / 2, 16)
    assert (
        fit_min_box_area(changed_config(cfg, {"INPUT.MIN_SIZE_TRAIN": [64]}), [dataset]).value_of(key) == smallest / 2
    )
    given = changed_config(cfg, {key: 5.0})
    assert fit_min_box_area(given, [dataset]) is given
    without_objects = replace(dataset, records=tuple(replace(record, instances=()) for record in dataset.records))
    assert fit_min_box_area(cfg, [without_objects]) is cfg


COMMAND = [
    sys.executable,
    "-m",
    "mrcnn_zoo",
    "precompute-proposals",
    "--config-file",
    DIGITS,
    "--format",
    ".npz",
    *KEYS,
]
MORE = ["DATASETS.SCENES.NUM_VAL=48", "TEST.BATCH_SIZE=1"]


def living_processes(session: int) -> list[str]:
    """States of the processes of a session; those that have ended but are not waited for yet are left out."""
    listed = subprocess.run(["ps", "-o", "stat=", "-s", str(session)], capture_output=True, text=True, check=False)
    return [state for state in listed.stdout.split() if not state.startswith("Z")]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_killed_workers_leave_parts_that_end_equal(number: signal.Signals, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    subprocess.run([*COMMAND, "--output", str(whole), *MORE], check=True)
    running = subprocess.Popen([*COMMAND, "--output", str(cut), "--workers", "2", *MORE], start_new_session=True)
    parts = cut / "digits_val_proposals.npz.parts"
    while not (parts / "000001.npz").exists():
        assert running.poll() is None
        time.sleep(0.05)
    running.send_signal(number)
    running.wait()
    deadline = time.monotonic() + 30
    while living_processes(running.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert living_processes(running.pid) == []  # the workers have ended with their parent
    subprocess.run([*COMMAND, "--output", str(cut), "--workers", "2", "--resume", *MORE], check=True)
    name = "digits_val_proposals.npz"
    assert (cut / name).read_bytes() == (whole / name).read_bytes()
    assert [path.name for path in cut.iterdir()] == [name]

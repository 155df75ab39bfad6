"""Sweeps of real trainings: weights taken from other runs, and a sweep that crashes, is killed and started again."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mrcnn_zoo.checkpoint import load_checkpoint
from mrcnn_zoo.cli.main import run_command
from mrcnn_zoo.experiments.launchers.contract import write_initial_weights
from mrcnn_zoo.experiments.plan import plan_sweep, write_sweep
from mrcnn_zoo.experiments.records import SweepRecord, read_sweep_folder
from mrcnn_zoo.experiments.runs import RunKey, expand
from mrcnn_zoo.experiments.sweep_file import read_sweep
from mrcnn_zoo.modeling import build_model
from support.small_models import TINY_YAML
from support.train_net import HOOKS, REPOSITORY, TIME_LIMIT


def test_parts_of_other_runs_are_joined_into_the_initial_weights(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    variants = "VARIANTS: {a: {}, b: {}, c: {FROM: {backbone: a, roi_heads: b}}}"
    path.write_text(f"BASE: {TINY_YAML}\nOUTPUT_DIR: {tmp_path / 'out'}\n{variants}\n")
    sweep = read_sweep(path)
    specs = expand(sweep)
    write_sweep(sweep, plan_sweep(sweep, specs))
    weights = {}
    for seed, name in enumerate("ab"):
        torch.manual_seed(seed)
        weights[name] = build_model(specs[seed].cfg).state_dict()
        torch.save({"model": weights[name]}, sweep.output_dir / name / "seed_0" / "model_final.pth")
    write_initial_weights(specs[2].folder)
    joined = load_checkpoint(specs[2].folder / "initial_weights.pth")["model"]
    for name, values in joined.items():
        source = {"backbone": "a", "roi_heads": "b"}[name.split(".")[0]]
        assert torch.equal(values, weights[source][name]), name
    assert {name.split(".")[0] for name in joined} == {"backbone", "roi_heads"}


def start(folder: Path, *options: str, faults: Path | None = None) -> int:
    """Run the sweep in a process of its own; returns the exit status."""
    # One thread whatever the number of jobs is: other summation orders change the last bits.
    variables = {"PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(HOOKS)]), "OMP_NUM_THREADS": "1"}
    variables |= {"FAULTS": str(faults)} if faults else {}
    command = [sys.executable, str(REPOSITORY / "tools" / "sweep.py"), "--config", str(folder / "s.yaml"), *options]
    environment = {**os.environ, **variables}
    return subprocess.run(command, env=environment, cwd=folder, timeout=2 * TIME_LIMIT, check=False).returncode


def comparable(record: SweepRecord) -> list[tuple[RunKey, str, dict]]:  # type: ignore[type-arg]
    return [(run.key, run.status, run.results) for run in record.runs]


@pytest.mark.slow
def test_a_disturbed_sweep_ends_with_the_results_of_an_undisturbed_one(tmp_path: Path) -> None:
    variants = "{plain: {HOOKS: ['foreign_hooks:faults_of_second_run']}}"
    (tmp_path / "s.yaml").write_text(f"BASE: {TINY_YAML}\nSEEDS: [0, 1]\nVARIANTS: {variants}\n")
    (tmp_path / "faults").mkdir()
    assert start(tmp_path, "--output", "calm", "--jobs", "2") == 0
    calm = read_sweep_folder(tmp_path / "calm")
    disturbed = ("--output", "disturbed")
    assert start(tmp_path, *disturbed, faults=tmp_path / "faults") == 1
    first, second = read_sweep_folder(tmp_path / "disturbed").runs
    assert (first.status, second.status) == ("finished", "failed")
    assert "ZeroDivisionError" in second.error
    written = (first.folder / "model_final.pth").stat().st_mtime_ns
    assert start(tmp_path, *disturbed, faults=tmp_path / "faults") == 1
    assert "ended by SIGKILL" in read_sweep_folder(tmp_path / "disturbed").runs[1].error
    assert start(tmp_path, *disturbed, faults=tmp_path / "faults") == -signal.SIGKILL
    assert start(tmp_path, *disturbed, faults=tmp_path / "faults") == 0
    assert (first.folder / "model_final.pth").stat().st_mtime_ns == written
    again = read_sweep_folder(tmp_path / "disturbed")
    assert comparable(again) == comparable(calm)
    for one, other in zip(again.runs, calm.runs, strict=True):
        ours, theirs = (load_checkpoint(run.folder / "model_final.pth")["model"] for run in (one, other))
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert run_command("sweep", ["status", str(tmp_path / "disturbed")]) == 0

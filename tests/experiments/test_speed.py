"""Time and memory of variants: what is measured, what is written, and how the report reads it."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from mrcnn_zoo.benchmark.models import ModelPlan
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.experiments.records import read_sweep_folder
from mrcnn_zoo.experiments.report.build import build_section
from mrcnn_zoo.experiments.report.details import speed_table
from mrcnn_zoo.experiments.speed import measure_in_process, measure_sweep, read_speeds
from support.sweep_folders import write_example

ENVIRONMENT = {"torch": "2.9.0", "python": "3.12", "processor": "x86_64"}


class Machine:
    """A benchmark with known results; `deep_50` does not fit into its memory in training."""

    def __init__(self) -> None:
        self.plans: list[ModelPlan] = []

    def __call__(self, plan: ModelPlan) -> Mapping[str, Any]:
        self.plans.append(plan)
        if plan.task == "train" and "DEPTH: 50" in plan.config_text:
            raise UserError("first line\nout of memory")
        rate = 4.0 if plan.task == "train" else 8.0
        measured = {"images_per_second": rate, "peak_memory_mib": 512.0, "parameters": 1234567}
        return measured | {"num_threads": 1, "batch_size": plan.batch_size, "environment": ENVIRONMENT}


def test_variants_are_measured_one_after_the_other(tmp_path: Path) -> None:
    folder, machine = write_example(tmp_path / "roi_layer"), Machine()
    path = measure_sweep(read_sweep_folder(folder), only=["base", "deep_50"], iterations=7, measure=machine)
    assert path == folder / "speed.json"
    assert [plan.task for plan in machine.plans] == ["train", "inference"] * 2
    assert machine.plans[1].batch_size == 1
    assert machine.plans[0].batch_size > 1
    assert "DEPTH: 18" in machine.plans[0].config_text
    record = read_sweep_folder(folder)
    section = build_section(record, [])
    cells = [[cell.text for cell in row] for row in speed_table(section).rows]
    assert cells[0] == ["base", "1,234,567", "4.00", "250", "0.50", "8.00", "125", "0.50"]
    assert cells[1] == ["wide_128", *["-"] * 7]  # not measured
    assert cells[2] == ["deep_50", "1,234,567", "-", "-", "-", "8.00", "125", "0.50"]
    assert speed_table(section).rows[2][2].note == "train: out of memory"
    assert "torch 2.9.0; threads 1" in section.speed_text
    assert "7" in section.speed_text


def test_other_variants_in_the_file_stay(tmp_path: Path) -> None:
    folder = write_example(tmp_path / "roi_layer")
    record = read_sweep_folder(folder)
    measure_sweep(record, only=["base"], measure=Machine())
    before = json.loads((folder / "speed.json").read_text())["base"]
    measure_sweep(record, only=["wide_128"], measure=Machine())
    content = json.loads((folder / "speed.json").read_text())
    assert list(content) == ["base", "wide_128"]
    assert content["base"] == before
    with pytest.raises(UserError, match=r"has no variant 'wid_128'.*wide_128"):
        measure_sweep(record, only=["wid_128"], measure=Machine())


def test_a_file_that_cannot_be_written_is_refused_before_the_first_measurement(tmp_path: Path) -> None:
    folder = write_example(tmp_path / "roi_layer")
    (folder / "speed.json").mkdir()
    machine = Machine()
    with pytest.raises(UserError, match=r"speed.json is a folder"):
        measure_sweep(read_sweep_folder(folder), only=["base"], measure=machine)
    assert not machine.plans


def test_running_runs_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    record = read_sweep_folder(write_example(tmp_path / "roi_layer"))
    run = type(record.runs[0])(**{**vars(record.runs[0]), "status": "running"})
    busy = type(record)(**{**vars(record), "runs": (run, *record.runs[1:])})
    with caplog.at_level(logging.WARNING):
        measure_sweep(busy, only=["base"], measure=Machine())
    assert "1 run of this sweep is being trained" in caplog.text


def test_speeds_that_are_missing_or_unreadable(tmp_path: Path) -> None:
    speeds, text = read_speeds(tmp_path)
    assert speeds == {}
    assert f"mrcnn-zoo sweep measure {tmp_path}" in text
    (tmp_path / "speed.json").write_text("{")
    with pytest.raises(UserError, match=r"speed.json cannot be read .* measure again"):
        read_speeds(tmp_path)


@pytest.mark.slow
def test_a_variant_is_measured_in_its_own_process(tmp_path: Path) -> None:
    folder = write_example(tmp_path / "roi_layer")

    def measure(plan: ModelPlan) -> Mapping[str, Any]:
        return measure_in_process(plan)

    measure_sweep(read_sweep_folder(folder), only=["base"], iterations=1, num_threads=1, measure=measure)
    speed = read_speeds(folder)[0]["base"]
    assert speed.error == ""
    assert None not in (speed.parameters, speed.train_images_per_second, speed.memory_mib)

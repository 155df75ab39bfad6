"""dev/gpu_checks.py without a GPU: report, time limits, and a part at tiny size."""

import importlib
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

DEV = Path(__file__).resolve().parents[2] / "dev"
MODULES = ("gpu_report", "gpu_speed", "gpu_checks")


@pytest.fixture(scope="module")
def modules() -> Iterator[dict[str, ModuleType]]:
    sys.path.insert(0, str(DEV))
    yield {name: importlib.import_module(name) for name in MODULES}
    sys.path.remove(str(DEV))
    for name in MODULES:
        sys.modules.pop(name, None)


def test_report_contains_measurements_profiles_and_failures(modules: dict[str, ModuleType], tmp_path: Path) -> None:
    report = modules["gpu_report"]
    fine, broken = report.PartResult("fine", seconds=3.4), report.PartResult("broken")
    fine.add("features", 1.234567e-6, 1e-4)
    fine.profiles["step"] = {"seconds": 0.5, "idle_share": 0.25, "operations": [["aten::mm", 7, 12.34, 0.5]]}
    with broken.attempt("second half"):
        broken.add("first half", "measured")
        raise RuntimeError("out of memory")
    text = report.write_report(tmp_path / "out", [fine, broken], {"on_gpu": True, "device": "a GPU"})
    assert text == (tmp_path / "out" / "gpu_checks.md").read_text()
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    for row in (
        ["**fine**", "passed in 3 s", "", ""],
        ["", "features", "1.235e-06", "0.0001"],
        ["**broken**", "failed in 0 s", "", ""],
        ["", "first half", "measured", ""],
        ["aten::mm", "7", "12.3", "50.0%"],
    ):
        assert row in lines
    assert "device a GPU" in text
    assert "speeds are not meaningful" not in text
    assert "GPU idle 25% of the time" in text
    assert "RuntimeError: out of memory" in text
    parts = json.loads((tmp_path / "out" / "gpu_checks.json").read_text())["parts"]
    assert [part["status"] for part in parts] == ["passed", "failed"]
    assert parts[0]["rows"] == [["features", 1.234567e-6, 1e-4]]


def test_failed_part_keeps_measurements_and_traceback(
    modules: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks, report = modules["gpu_checks"], modules["gpu_report"]

    def fail(result, on_gpu: bool) -> None:  # noqa: ARG001
        result.add("before", 1.0)
        raise ValueError("failed in the test")

    monkeypatch.setitem(checks.PARTS, "failing", checks.Part(fail, limit=1))
    path = tmp_path / "result.json"
    assert checks._run_here("failing", str(path)) == 1
    result = report.PartResult.read("failing", path)
    assert (result.status, result.rows) == ("failed", [["before", 1.0, ""]])
    assert "failed in the test" in result.failures[0]


def test_crash_and_timeout_have_different_status(modules: dict[str, ModuleType], tmp_path: Path) -> None:
    checks = modules["gpu_checks"]
    died = checks.run_part("no such part", 60, tmp_path / "a.json")
    assert died.status == "failed"
    assert "invalid choice: 'no such part'" in died.failures[0]
    assert checks.run_part("digits quickstart", 0.05, tmp_path / "b.json").status == "timed out"


def test_run_continues_after_failed_part_with_exit_status_1(
    modules: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks, report = modules["gpu_checks"], modules["gpu_report"]
    statuses = dict(zip(checks.PARTS, ("passed", "failed", "timed out", "passed"), strict=True))

    def run_part(name: str, limit: float, path: Path):  # noqa: ARG001
        return report.PartResult(name, status=statuses[name])

    monkeypatch.setattr(checks, "run_part", run_part)
    monkeypatch.setenv("OUT", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["gpu_checks.py"])
    assert checks.main() == 1
    parts = json.loads((tmp_path / "gpu_checks.json").read_text())["parts"]
    assert {part["name"]: part["status"] for part in parts} == statuses
    monkeypatch.setattr(sys, "argv", ["gpu_checks.py", str(tmp_path / "other"), "--only", "agree"])
    assert checks.main() == 0
    assert (tmp_path / "other" / "gpu_checks.md").is_file()


def test_time_limits_add_up_to_at_most_six_minutes(modules: dict[str, ModuleType]) -> None:
    assert sum(part.limit for part in modules["gpu_checks"].PARTS.values()) <= 360


def test_busy_time_is_union_of_kernel_intervals(modules: dict[str, ModuleType]) -> None:
    busy_length = modules["gpu_speed"].busy_length
    assert busy_length([(5, 6), (0, 2), (1, 3), (1.5, 2), (3, 4)]) == 5
    assert busy_length([]) == 0


def test_training_measurement_has_ratio_to_torchvision_and_profile(
    modules: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    speed = modules["gpu_speed"]
    monkeypatch.setattr(speed, "PRECISIONS", {"bfloat16": speed.PRECISIONS["bfloat16"]})
    monkeypatch.setattr(speed, "WARMUP", 0)
    result = modules["gpu_report"].PartResult("speed")
    size = replace(speed.TINY, image_size=(64, 64), batch_size=1, repeats=1)
    speed.measure_training(result, device="cpu", size=size)
    assert not result.failures
    figures = {what: value for what, value, _ in result.rows}
    ours, theirs, ratio = (
        figures[f"training, bfloat16, {name}: images per second"]
        for name in ("mrcnn_zoo", "torchvision", "mrcnn_zoo / torchvision")
    )
    assert ratio == ours / theirs
    operations = [name for name, *_ in result.profiles["training step, bfloat16"]["operations"]]
    assert "aten::convolution_backward" in operations

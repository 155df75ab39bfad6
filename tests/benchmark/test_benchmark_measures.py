import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mrcnn_zoo.benchmark.measure import Candidate, Timing, paired_ratio, peak_memory_mib, time_interleaved
from mrcnn_zoo.benchmark.report import BenchmarkReport, make_ratios, make_rows
from mrcnn_zoo.errors import UserError


def touch_megabytes(count: int) -> Callable[[], None]:
    """Allocate 100 MB before the measured work, which allocates and frees `count` MB."""
    before = np.ones(100 * 2**20, dtype=np.uint8)

    def work() -> None:
        assert before[0] == 1
        np.ones(count * 2**20, dtype=np.uint8).sum()

    return work


def raise_user_error(_: None) -> Callable[[], None]:
    raise UserError("no such dataset")


def test_candidates_are_interleaved_without_counting_warmup() -> None:
    calls: list[str] = []

    def step(name: str) -> Callable[[], int]:
        return lambda: calls.append(name) or 2

    candidates = [Candidate(name, [step(f"{name}1"), step(f"{name}2")]) for name in "ab"]
    first, second = time_interleaved(candidates, repeats=2, warmup=1)
    assert calls == ["a1", "b1", "a2", "b2", "b1", "a1", "b2", "a2", "a1", "b1", "a2", "b2"]
    assert (first.name, len(first.seconds), first.produced) == ("a", 2, 4)
    assert (second.name, len(second.seconds), second.produced) == ("b", 2, 4)


def test_before_is_called_before_every_step() -> None:
    calls: list[str] = []
    candidate = Candidate("a", [lambda: calls.append("work") or 0], before=lambda: calls.append("before"))
    time_interleaved([candidate], repeats=2, warmup=0)
    assert calls == ["before", "work", "before", "work"]


def test_paired_ratio_is_median_over_rounds() -> None:
    # A slowdown of both by 3 in the last round does not change the ratio.
    assert paired_ratio(Timing("a", (1.0, 1.0, 3.0), 0), Timing("b", (2.0, 2.0, 6.0), 0)) == 0.5


def test_report_has_values_per_image_and_ratios(tmp_path: Path) -> None:
    timings = [Timing("ours", (4.0, 2.0, 3.0), 20), Timing("theirs", (8.0, 8.0, 8.0), 20)]
    rows = make_rows(timings, num_images=2, memory={"ours": 100.0, "theirs": 400.0})
    assert (rows[0].seconds_median, rows[0].seconds_min, rows[0].produced) == (1.5, 1.0, 10.0)
    assert rows[0].images_per_second == pytest.approx(2 / 3)
    report = BenchmarkReport("train", {"batch_size": 2}, rows, make_ratios(timings, rows))
    assert report.ratios == {
        "seconds (median of the rounds' ratios), ours / theirs": 0.375,
        "seconds (fastest rounds), ours / theirs": 0.25,
        "peak memory, ours / theirs": 0.25,
    }
    assert "peak memory, ours / theirs: 0.250" in report.text()
    report.write(tmp_path / "new" / "report.json")
    assert json.loads((tmp_path / "new" / "report.json").read_text())["rows"][1]["peak_memory_mib"] == 400.0


def test_single_candidate_has_no_ratios() -> None:
    timings = [Timing("ours", (1.0,), 1)]
    rows = make_rows(timings, num_images=1)
    assert make_ratios(timings, rows) == {}
    assert "peak memory" not in BenchmarkReport("train", {}, rows, {}).text()


def test_peak_memory_counts_only_the_measured_work() -> None:
    here = np.ones(300 * 2**20, dtype=np.uint8)  # a larger peak of this process must not count
    measured = peak_memory_mib(touch_megabytes, 200)
    assert here[0] == 1
    assert 195 < measured < 240


@pytest.mark.slow
def test_user_error_in_measuring_process_is_raised() -> None:
    with pytest.raises(UserError, match="no such dataset"):
        peak_memory_mib(raise_user_error, None)

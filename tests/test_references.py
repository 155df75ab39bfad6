"""Recorded results: their sources, and tests without them."""

from pathlib import Path

import numpy as np
import pytest
import torch

from support import references
from support.references import COMMITTED_CASES, REFERENCES, find_case, read_arrays, shared_folder

MAX_BYTES = 12_000_000


@pytest.mark.parametrize(("ci", "outcome"), [("", pytest.skip.Exception), ("1", pytest.fail.Exception)])
def test_missing_shared_folder_skips_the_test_but_fails_in_ci(
    ci: str, outcome: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", ci)
    monkeypatch.setattr(references, "SHARED", tmp_path / "shared")
    with pytest.raises(outcome, match=f"needs the reference data in {tmp_path / 'shared'}"):
        shared_folder()
    with pytest.raises(outcome):
        find_case("cascade_mask_rcnn_R_50_FPN")


@pytest.mark.parametrize("name", sorted(COMMITTED_CASES))
def test_committed_case_needs_no_shared_folder(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(references, "SHARED", tmp_path / "shared")
    case = find_case(name)
    assert len(case.weights) >= 300
    assert all(value.dtype in (torch.float32, torch.int64) for value in case.weights.values())
    assert case.tensor("input_tensor").isfinite().all()


@pytest.mark.parametrize("name", sorted(COMMITTED_CASES))
def test_committed_case_is_bit_equal_to_recorded_case(name: str) -> None:
    committed = find_case(name)
    recorded = references.RecordedCase(name, shared_folder() / "reference" / committed.folder.relative_to(REFERENCES))
    assert committed.arrays.keys() == recorded.arrays.keys()
    assert all(np.array_equal(value, recorded.arrays[key]) for key, value in committed.arrays.items())
    assert committed.weights.keys() == recorded.weights.keys()
    assert all(torch.equal(value, recorded.weights[key]) for key, value in committed.weights.items())


def test_read_arrays_joins_byte_planes(tmp_path: Path) -> None:
    values = np.float32([[1.5, -2.0, 3e-9]])
    planes = np.stack([np.ascontiguousarray(values).view(np.uint8).reshape(1, 3, 4)[..., n] for n in range(4)])
    np.savez(tmp_path / "a.npz", **{"split.float32": planes, "plain": values, "scalar": np.float32(2)})
    read = read_arrays(tmp_path / "a.npz")
    assert np.array_equal(read["split"], values)
    assert np.array_equal(read["plain"], values)
    assert read["scalar"].shape == ()


def test_references_are_below_size_limit() -> None:
    assert sum(path.stat().st_size for path in REFERENCES.rglob("*") if path.is_file()) < MAX_BYTES

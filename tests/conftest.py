"""Fixtures for every test."""

from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder with reference fixtures and real images beside the checkout; the test is skipped without it."""
    path = REPOSITORY.parent / "shared"
    if not (path / "reference").is_dir():
        pytest.skip(f"needs the reference data in {path}, which is not there")
    return path

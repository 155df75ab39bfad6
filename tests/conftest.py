"""Fixtures of all tests."""

from pathlib import Path

import pytest

from support.references import shared_folder


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """`../shared`, with large references and real images; see `shared_folder`."""
    return shared_folder()

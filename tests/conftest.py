"""Fixtures for every test."""

from pathlib import Path

import pytest

from support.references import shared_folder


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder with large references and real images beside the checkout; see `shared_folder`."""
    return shared_folder()

"""Fixtures of all tests, and the order of the files."""

import gc
from pathlib import Path

import pytest

from support.references import shared_folder

gc.disable()  # until all tests are collected: a quarter of that time, and nothing to free

# These take longest. Begun last, one of them would run alone while the other processes of a parallel run have ended.
FIRST = (
    *("test_run.py", "test_launch.py", "test_documentation.py", "test_simulated_device.py", "test_processes.py"),
    *("test_recipes.py", "test_search.py", "test_shipped_sweeps.py", "test_timm_features.py", "test_stages.py"),
    *("test_classes_of_a_run.py", "test_torchvision_parity.py", "test_schedules_of_a_run.py", "test_round_trips.py"),
    *("test_backends.py", "test_detectron2_parity.py", "test_contracts_regions.py", "test_architecture.py"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Move the tests of these files to the front."""
    items.sort(key=lambda item: FIRST.index(item.path.name) if item.path.name in FIRST else len(FIRST))


def pytest_collection_finish() -> None:
    """Leave the modules and thousands of collected tests out of all further garbage collections."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """`../shared`, with large references and real images; see `shared_folder`."""
    return shared_folder()

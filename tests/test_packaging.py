"""What travels in the wheel."""

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
SOURCES = ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "mrcnn_zoo", "configs", "model_zoo")
RESOURCES = "mrcnn_zoo/data/synthetic/resources"  # the digits


@pytest.mark.slow
def test_the_wheel_has_configs_zoo_and_digits(tmp_path: Path) -> None:
    pytest.importorskip("setuptools", reason="the wheel is built without network, by the setuptools installed here")
    checkout = tmp_path / "checkout"  # a copy: building leaves folders behind
    checkout.mkdir()
    for name in SOURCES:
        source = REPOSITORY / name
        if source.is_dir():
            shutil.copytree(source, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, checkout / name)
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    outcome = subprocess.run([*build, "-w", str(tmp_path), str(checkout)], capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        files = set(archive.namelist())
        index = json.loads(archive.read("mrcnn_zoo/_model_zoo/index.json"))
    assert index == json.loads((checkout / "model_zoo" / "index.json").read_text())
    for folder, inside in (("configs", "mrcnn_zoo/_configs"), (RESOURCES, RESOURCES)):
        paths = [path for path in (checkout / folder).rglob("*") if path.is_file()]
        assert paths
        assert {f"{inside}/{path.relative_to(checkout / folder).as_posix()}" for path in paths} <= files
    assert "mrcnn_zoo/py.typed" in files
    assert not any(name.startswith(("tests/", "configs/", "model_zoo/")) or "pictures/" in name for name in files)

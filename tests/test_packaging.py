"""Requirements, and content of the wheel."""

import ast
import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from support.source_files import files_in

REPOSITORY = Path(__file__).resolve().parents[1]
SOURCES = ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "mrcnn_zoo", "configs", "model_zoo")
RESOURCES = "mrcnn_zoo/data/synthetic/resources"  # the digits

# module -> distribution, if the names differ
DISTRIBUTIONS = {
    "cv2": "opencv-contrib-python-headless",
    "PIL": "pillow",
    "yaml": "pyyaml",
    "faster_coco_eval": "faster-coco-eval",
}
IMPORTED_ELSEWHERE = {"tensorboard": "by torch.utils.tensorboard"}


def requirements(name: str) -> set[str]:
    """Distributions of a list in setup.py."""
    tree = ast.parse((REPOSITORY / "setup.py").read_text(encoding="utf-8"))
    (value,) = (
        node.value for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name
    )
    return {re.split("[<>=]", requirement)[0] for requirement in ast.literal_eval(value)}


def imported_distributions() -> set[str]:
    """Third-party distributions that the package imports anywhere in its code."""
    modules: set[str] = set()
    for file in files_in("mrcnn_zoo"):
        for node in file.nodes:
            if isinstance(node, ast.Import):
                modules |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                modules.add(str(node.module))
    names = {module.partition(".")[0] for module in modules} - sys.stdlib_module_names - {"mrcnn_zoo"}
    return {DISTRIBUTIONS.get(name, name) for name in names}


def test_imports_equal_declared_requirements() -> None:
    required, imported = requirements("REQUIREMENTS"), imported_distributions()
    extras = ("EVALUATION_BACKENDS", "TIMM", "KERAS", "TIFF", "PROPOSALS", "SEARCH", "SLURM", "VIDEO", "TABLES", "ONNX")
    extras = (*extras, "INT8")
    optional = set().union(*map(requirements, extras))
    assert imported - required - optional == set()
    assert required - imported == set(IMPORTED_ELSEWHERE)


@pytest.mark.slow
def test_wheel_contains_configs_zoo_and_digits(tmp_path: Path) -> None:
    pytest.importorskip("setuptools", reason="building the wheel without network needs setuptools")
    checkout = tmp_path / "checkout"  # a copy, because building creates folders
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

"""Small datasets that the doctor finds nothing in, changes of them, and its diagnosis."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mrcnn_zoo.config import load_config
from mrcnn_zoo.data import load_train_and_test
from mrcnn_zoo.data.annotations.folders import write_dataset
from mrcnn_zoo.doctor.checks import CHECKS, Diagnosis, run_checks
from mrcnn_zoo.doctor.finding import Finding, Severity
from mrcnn_zoo.doctor.loading import build_doctor_input
from mrcnn_zoo.registries import ANNOTATION_FORMATS
from support.small_models import TINY_YAML

NUM_TRAIN, NUM_VAL, SIDE = 32, 8, 64
SCENES = {"NUM_TRAIN": NUM_TRAIN, "NUM_VAL": NUM_VAL, "NUM_OBJECTS": [2, 4]}

Coco = dict[str, Any]


def write_clean_set(folder: Path) -> Path:
    """Generated shapes of three classes, as COCO files with the sides train and val.

    Args:
        folder: new.
    """
    scenes = [part for name, value in SCENES.items() for part in (f"DATASETS.SCENES.{name}", value)]
    generated = load_train_and_test(load_config(TINY_YAML, scenes))
    parts = {"train": generated.train[0], "val": generated.test[0]}
    write_dataset(parts, folder, ANNOTATION_FORMATS.get("coco")())
    return folder


def diagnose(folder: Path, *overrides: Any, checks: tuple[str, ...] = ()) -> Diagnosis:
    """The findings for a set, of the tiny model.

    Args:
        folder: of the set.
        overrides: of the config.
        checks: names of those that are run, all by default; "loading" always is.
    """
    cfg = load_config(TINY_YAML, ["DATASETS.TRAIN", [str(folder)], "DATASETS.TEST", [], *overrides])
    chosen = [check for check in CHECKS if not checks or check.name in (*checks, "loading")]
    return run_checks(build_doctor_input(cfg, num_images=0, measures=False), chosen)


def problems(diagnosis: Diagnosis) -> list[Finding]:
    """Errors, warnings and notes.

    Args:
        diagnosis: of a set.
    """
    return [finding for finding in diagnosis.findings if finding.severity <= Severity.NOTE]


def one_finding(diagnosis: Diagnosis, check: str, words: str) -> Finding:
    """The only problem of a check with some words in its title.

    Args:
        diagnosis: of a set.
        check: its name.
        words: in the title.
    """
    found = [finding for finding in problems(diagnosis) if finding.check == check and words in finding.title]
    titles = "\n".join(f"{finding.check}: {finding.title}" for finding in problems(diagnosis))
    assert len(found) == 1, f"{check}, {words!r}: {len(found)} findings among\n{titles}"
    return found[0]


def change_annotations(folder: Path, side: str, edit: Callable[[Coco], None]) -> None:
    """Rewrite the JSON of a side.

    Args:
        folder: of the set.
        side: "train" or "val".
        edit: changes its content.
    """
    path = folder / "annotations" / f"instances_{side}.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    edit(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def image_file(folder: Path, side: str, image: int) -> Path:
    """The file of an image.

    Args:
        folder: of the set.
        side: "train" or "val".
        image: place in the JSON.
    """
    content = json.loads((folder / "annotations" / f"instances_{side}.json").read_text(encoding="utf-8"))
    return next(folder.rglob(content["images"][image]["file_name"]))

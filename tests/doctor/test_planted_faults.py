"""The doctor finds each of a list of planted faults, names the image, and finds nothing in a clean set."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mrcnn_zoo.config import load_config
from mrcnn_zoo.doctor.annotations import repair_finding
from mrcnn_zoo.doctor.checks import CHECKS, Diagnosis
from mrcnn_zoo.doctor.finding import Finding, Severity
from mrcnn_zoo.doctor.images import check_files
from mrcnn_zoo.doctor.loading import build_doctor_input
from support.doctor_sets import (
    SIDE,
    Coco,
    change_annotations,
    diagnose,
    image_file,
    one_finding,
    problems,
    write_clean_set,
)
from support.small_models import TINY_YAML

ERROR, WARNING, NOTE = Severity.ERROR, Severity.WARNING, Severity.NOTE


@pytest.fixture(scope="module", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MRCNN_ZOO_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clean_set(tmp_path_factory.mktemp("doctor") / "clean")


@pytest.fixture
def damaged(clean: Path, tmp_path: Path) -> Path:
    """A copy of the clean set."""
    return Path(shutil.copytree(clean, tmp_path / "damaged"))


def test_clean_set_gives_no_error_no_warning_and_no_note(clean: Path) -> None:
    diagnosis = diagnose(clean)
    assert [finding.title for finding in problems(diagnosis)] == []
    assert {finding.check for finding in diagnosis.of(Severity.FINE)} == {check.name for check in CHECKS} - {
        "resources"
    }


def test_held_out_images_of_a_fold_are_a_side_with_its_own_name(clean: Path) -> None:
    diagnosis = diagnose(clean, "DATASETS.TEST", [str(clean)], "DATASETS.FOLDS", 4, checks=("mask_ceiling",))
    assert problems(diagnosis) == []
    titles = [finding.title for finding in diagnosis.of(Severity.FINE) if finding.check == "mask_ceiling"]
    assert [title.partition(": perfect")[0] for title in titles] == [str(clean), f"{clean} (held out)"]


# --- annotations: each fault in an image of its own, all in one set ---------------------------------------------------


@dataclass(frozen=True)
class Place:
    """The annotations of one image in the content of a JSON."""

    content: Coco
    image: int

    @property
    def items(self) -> list[Coco]:
        return [item for item in self.content["annotations"] if item["image_id"] == self.image]

    def add(self, box: list[float], **fields: Any) -> None:
        x, y, width, height = box
        corners = [x, y, x + width, y, x + width, y + height, x, y + height]
        item = {"image_id": self.image, "category_id": 1, "bbox": box, "iscrowd": 0, "area": width * height}
        self._append({**item, "segmentation": [corners], **fields})

    def copy_first(self, *, same_class: bool) -> None:
        category = self.items[0]["category_id"]
        self._append({**self.items[0], "category_id": category if same_class else category % 3 + 1})

    def stretch_first_box(self, factor: float) -> None:
        x, y, width, height = self.items[0]["bbox"]
        self.items[0]["bbox"] = [max(0.0, min(x, SIDE - width * factor)), y, width * factor, height]

    def remove(self) -> None:
        self.content["annotations"] = [i for i in self.content["annotations"] if i["image_id"] != self.image]

    def _append(self, item: Coco) -> None:
        number = max(other["id"] for other in self.content["annotations"]) + 1
        self.content["annotations"].append({**item, "id": number})


@dataclass(frozen=True)
class Planted:
    """A fault in the annotations of an image.

    Args:
        check: that finds it.
        words: in the title of the finding.
        plant: changes the annotations of the image.
        names_image: whether an example names the file.
        severity: of the finding.
    """

    check: str
    words: str
    plant: Callable[[Place], Any]
    names_image: bool = True
    severity: Severity = WARNING


FAULTS = (
    Planted("loading", "boxes outside their image left out: 1", lambda at: at.add([90, 90, 9, 9]), names_image=False),
    Planted(
        "loading",
        "not above 0 in size left out: 1",
        lambda at: at.add([9, 9, 0, 9], segmentation=[], area=9),
        names_image=False,
    ),
    Planted("loading", "reach outside their image clipped: 1", lambda at: at.add([50, 5, 30, 9])),
    Planted("loading", "contradict their mask taken from the mask: 1", lambda at: at.stretch_first_box(0.3)),
    Planted("loading", "1 of 85 objects have no mask", lambda at: at.items[0].pop("segmentation"), names_image=False),
    Planted("boxes", "1 box with a side below 1 pixel", lambda at: at.add([9, 5, 0.5, 50])),
    Planted("duplicates", "1 object annotated twice", lambda at: at.copy_first(same_class=True)),
    Planted("duplicates", "1 object annotated with two classes", lambda at: at.copy_first(same_class=False)),
    Planted("mask_boxes", "1 mask that disagrees", lambda at: at.stretch_first_box(1.6)),
    Planted("small_objects", "1 object (1 %) smaller than 4 pixels", lambda at: at.add([60, 60, 3, 3])),
    Planted("empty", "1 image of 32 without objects (3 %)", lambda at: at.remove(), severity=NOTE),
)


@pytest.fixture(scope="module")
def flawed(clean: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Diagnosis]:
    """A set with fault number i in image i, and its diagnosis."""
    folder = Path(shutil.copytree(clean, tmp_path_factory.mktemp("doctor") / "flawed"))

    def plant(content: Coco) -> None:
        for image, fault in zip(content["images"], FAULTS, strict=False):
            fault.plant(Place(content, image["id"]))

    change_annotations(folder, "train", plant)
    return folder, diagnose(folder)


@pytest.mark.parametrize("number", range(len(FAULTS)), ids=[f"{fault.check}: {fault.words}" for fault in FAULTS])
def test_fault_in_annotations_is_found(flawed: tuple[Path, Diagnosis], number: int) -> None:
    folder, diagnosis = flawed
    fault = FAULTS[number]
    finding = one_finding(diagnosis, fault.check, fault.words)
    assert finding.severity == fault.severity
    assert finding.advice or finding.check == "loading"
    if fault.names_image:
        assert [Path(example.file).name for example in finding.examples] == [image_file(folder, "train", number).name]


def test_repair_that_is_only_logged_is_a_note_or_a_warning() -> None:
    note = "masks that overlap another kept as they are: 4 (first: file a.png)"
    kept, cut = (
        repair_finding("cells", text, total=0) for text in (note, note.replace("kept as they are", "left out"))
    )
    assert (kept.severity, cut.severity) == (NOTE, WARNING)
    assert (kept.title, kept.count) == ("cells: masks that overlap another kept as they are: 4", 4)


def test_planted_faults_give_no_other_findings(flawed: tuple[Path, Diagnosis]) -> None:
    expected = [one_finding(flawed[1], fault.check, fault.words).title for fault in FAULTS]
    assert sorted(finding.title for finding in problems(flawed[1])) == sorted(expected)


# --- classes ----------------------------------------------------------------------------------------------------------


def test_faults_of_classes(damaged: Path) -> None:
    def edit(content: Coco) -> None:
        content["categories"].append({"id": 9, "name": "ghost"})
        kept = 0
        for item in content["annotations"]:
            item["category_id"] = 2 if item["category_id"] == 3 else item["category_id"]  # triangle
            kept += item["category_id"] == 1
            if item["category_id"] == 1 and kept > 4:
                item["category_id"] = 2

    change_annotations(damaged, "train", edit)
    diagnosis = diagnose(damaged, checks=("categories", "balance"))
    names = ("circle", "square", "triangle")
    gaps = one_finding(diagnosis, "categories", "category ids from 1 to 9 with gaps: 4, 5, 6, 7, 8 missing")
    unused = one_finding(diagnosis, "categories", "1 class without training objects: ghost")
    hidden = one_finding(
        diagnosis, "categories", "1 class with objects in the validation data, and none in the training"
    )
    few = one_finding(diagnosis, "balance", "1 class with fewer than 10 training objects")
    assert [finding.severity for finding in (gaps, unused, hidden, few)] == [NOTE, WARNING, WARNING, WARNING]
    assert hidden.title.endswith(f": {names[2]}")
    assert few.title.endswith(f": {names[0]} (4)")
    assert len(problems(diagnosis)) == 4


# --- images -----------------------------------------------------------------------------------------------------------


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def write(path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(path)


def named(finding: Finding) -> list[str]:
    """The files of the first example."""
    example = finding.examples[0]
    return [Path(record.source.name).name for record in (example.record, example.other) if record is not None]


def test_images_that_cannot_be_trained_on_are_errors(damaged: Path) -> None:
    empty, truncated, text, small = (image_file(damaged, "train", image) for image in range(4))
    empty.write_bytes(b"")
    truncated.write_bytes(truncated.read_bytes()[:-2000])
    text.write_text("not an image")
    write(small, read(small)[:32])
    diagnosis = diagnose(damaged, checks=("files",))
    broken = one_finding(diagnosis, "files", "3 images cannot be read")
    files = [Path(example.file).name for example in broken.examples]
    assert files == [path.name for path in (empty, truncated, text)]
    other = one_finding(diagnosis, "files", "1 image with another size than in the annotations")
    assert named(other) == [small.name]
    assert "64 x 32" in other.examples[0].text
    assert {broken.severity, other.severity} == {ERROR}
    assert diagnosis.has_errors
    assert len(problems(diagnosis)) == 2


def test_refused_dataset_is_an_error_and_the_other_side_is_checked(damaged: Path) -> None:
    missing = image_file(damaged, "train", 3)
    missing.unlink()
    flat = image_file(damaged, "val", 2)
    write(flat, np.full((SIDE, SIDE, 3), 7, dtype=np.uint8))
    diagnosis = diagnose(damaged, checks=("flat_images",))
    refused = one_finding(diagnosis, "loading", "1 of the 32 images")
    assert refused.severity == ERROR
    assert missing.name in refused.title
    assert named(one_finding(diagnosis, "flat_images", "1 image without any contrast")) == [flat.name]


def test_unread_files_are_looked_up_and_their_headers_compared(damaged: Path) -> None:
    missing, empty, small = (image_file(damaged, "train", image) for image in range(3))
    empty.write_bytes(b"")
    write(small, read(small)[:, :48])
    cfg = load_config(TINY_YAML, ["DATASETS.TRAIN", [str(damaged)], "DATASETS.TEST", []])
    examined = build_doctor_input(cfg, num_images=0, measures=False)
    missing.unlink()  # after the annotations are read
    unread = replace(examined, sides=tuple(replace(side, rows=(), images=()) for side in examined.sides))
    titles = [finding.title.partition(": ")[2] for finding in check_files(unread)]
    assert titles == ["2 images cannot be read", "1 image with another size than in the annotations"]


def test_images_without_contrast_and_of_other_depths(damaged: Path) -> None:
    flat, deep = (image_file(damaged, "train", image) for image in (3, 5))
    write(flat, np.full((SIDE, SIDE, 3), 7, dtype=np.uint8))
    write(deep, read(deep)[:, :, 0].astype(np.uint16) * 16)  # as a camera of 12 bits
    diagnosis = diagnose(damaged, "INPUT.SIXTEEN_BIT", "divide", checks=("flat_images", "channels"))
    found = one_finding(diagnosis, "flat_images", "1 image without any contrast")
    assert (found.severity, named(found)) == (WARNING, [flat.name])
    mixed = one_finding(diagnosis, "channels", "different depths: 30 x 8-bit RGB, 1 x 8-bit grey, 1 x 16-bit grey")
    dark = one_finding(diagnosis, "channels", "1 image with few grey levels after the conversion to 8 bits")
    assert (named(mixed), named(dark)) == ([deep.name], [deep.name])
    assert "range" in dark.paste
    assert len(problems(diagnosis)) == 3


def test_leakage_and_repeated_images(damaged: Path) -> None:
    train = [image_file(damaged, "train", image) for image in range(4)]
    val = [image_file(damaged, "val", image) for image in range(2)]
    shutil.copy(train[0], val[0])
    brighter = np.clip(read(train[1]).astype(int) * 0.8 + 30, 0, 255).astype(np.uint8)
    write(val[1], brighter[:, ::-1])  # mirrored
    shutil.copy(train[2], train[3])
    diagnosis = diagnose(damaged, checks=("similar_images",))
    equal = one_finding(
        diagnosis, "similar_images", "1 validation image (12 %) also among the training images, equal files"
    )
    near = one_finding(diagnosis, "similar_images", "1 validation image (12 %) also among the training images, nearly")
    within = one_finding(diagnosis, "similar_images", "2 images are equal files (1 pair)")
    assert named(equal) == [val[0].name, train[0].name]
    assert named(near) == [val[1].name, train[1].name]
    assert "mirrored or turned" in near.examples[0].text
    assert named(within) == [train[2].name, train[3].name]
    assert [finding.severity for finding in (equal, near, within)] == [ERROR, ERROR, WARNING]
    assert len(problems(diagnosis)) == 3


# --- settings beside the data -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Misfit:
    """Overrides that do not fit the clean set."""

    check: str
    words: str
    overrides: tuple[Any, ...]
    severity: Severity = WARNING
    paste: str = ""


MISFITS = (
    Misfit("class_number", "NUM_CLASSES = 5, but dataset", ("MODEL.ROI_HEADS.NUM_CLASSES", 5), ERROR),
    Misfit("loading", "SOLVER.BEST_METRIC = 'nothing'", ("SOLVER.BEST_METRIC", "nothing"), ERROR),
    Misfit("loading", "checkpoint nothing.pth does not exist", ("MODEL.WEIGHTS", "nothing.pth"), ERROR),
    Misfit("loading", "there is no such folder", ("DATASETS.TEST", ["/nowhere/cells"]), ERROR),
    Misfit("statistics", "the config has", ("MODEL.PIXEL_STD", [1.0, 1.0, 1.0]), paste="PIXEL_MEAN: ["),
    Misfit("limits", "TEST.DETECTIONS_PER_IMAGE = 3 excludes", ("TEST.DETECTIONS_PER_IMAGE", 3)),
    Misfit("limits", "MODEL.RPN.POST_NMS_TOPK_TRAIN = 3 excludes", ("MODEL.RPN.POST_NMS_TOPK_TRAIN", 3)),
    Misfit(
        "anchors",
        "the best anchor reaches an IoU of 0.5 for 0 % of 82 objects",
        ("MODEL.ANCHOR_GENERATOR.SIZES", [[128], [160], [192], [224], [256]]),
        paste="SIZES: [[",
    ),
    Misfit(
        "mask_ceiling",
        "perfect masks of 2 x 2 cells",
        ("MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION", 1),
        paste="NUM_UPSAMPLE: 2",
    ),
    Misfit("small_objects", "82 objects (100 %) smaller than 4 pixels", ("INPUT.MIN_SIZE_TRAIN", [4])),
)


@pytest.mark.parametrize("misfit", MISFITS, ids=lambda misfit: f"{misfit.check}: {misfit.words}")
def test_setting_that_does_not_fit_is_found(clean: Path, misfit: Misfit) -> None:
    diagnosis = diagnose(clean, *misfit.overrides, checks=(misfit.check,))
    found = one_finding_of_train(diagnosis, misfit)
    assert found.severity == misfit.severity
    assert misfit.paste in found.paste
    assert diagnosis.has_errors == (misfit.severity == ERROR)


def one_finding_of_train(diagnosis: Diagnosis, misfit: Misfit) -> Finding:
    """The first finding: some settings do not fit the validation data either."""
    found = [item for item in problems(diagnosis) if item.check == misfit.check and misfit.words in item.title]
    assert found, [item.title for item in problems(diagnosis)]
    assert {item.check for item in problems(diagnosis)} == {misfit.check}
    return found[0]

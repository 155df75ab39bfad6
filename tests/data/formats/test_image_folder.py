"""A folder of images per class."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.data import load_dataset
from mrcnn_zoo.data.paths import CACHE_VARIABLE
from mrcnn_zoo.data.records import Dataset
from mrcnn_zoo.errors import UserError


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two dogs, one of them in a subfolder, a cat, an image without object, and files that are not images."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    root = tmp_path / "animals"
    for name, size in {
        "dog/b.png": (4, 6),
        "dog/a/1.png": (3, 2),
        "cat/x.PNG": (5, 5),
        "nothing/0.png": (2, 2),
    }.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((*size, 3), 9, dtype=np.uint8)).save(path, format="PNG")
    (root / "README.txt").write_text("animals")
    (root / "dog" / "notes.txt").write_text("dogs")
    (root / ".hidden").mkdir()
    return root


def load(cfg: CfgNode, root: Path, **fields: object) -> Dataset:
    cfg.DATASETS.DEFINITIONS = CfgNode({"animals": {"FORMAT": "image_folder", "IMAGES": str(root), **fields}})
    return load_dataset(cfg, "animals")


def contents(dataset: Dataset, root: Path) -> list[tuple[str, tuple[int, int], list[int]]]:
    return [
        (
            str(Path(record.source.name).relative_to(root)),
            tuple(record.image_size),
            [item.class_index for item in record.instances],
        )
        for record in dataset.records
    ]


def test_classes_are_the_sorted_folders_and_the_object_fills_the_image(cfg: CfgNode, root: Path) -> None:
    dataset = load(cfg, root)
    assert dataset.class_names == ("cat", "dog", "nothing")
    expected = [
        ("cat/x.PNG", (5, 5), [0]),
        ("dog/b.png", (4, 6), [1]),
        ("dog/a/1.png", (3, 2), [1]),
        ("nothing/0.png", (2, 2), [2]),
    ]
    assert contents(dataset, root) == expected
    assert dataset.records[1].instances[0].box == (0, 0, 6, 4)
    assert contents(load(cfg, root), root) == expected  # from the cache
    assert list((root.parent / "cache").iterdir())


def test_chosen_classes_and_a_folder_without_object(cfg: CfgNode, root: Path) -> None:
    dataset = load(cfg, root, CLASSES=["dog"], NO_OBJECT="nothing")
    assert dataset.class_names == ("dog",)
    assert [classes for _, _, classes in contents(dataset, root)] == [[0], [0], []]
    assert load(cfg, root, NO_OBJECT="nothing").class_names == ("cat", "dog")


def test_a_class_without_images_is_refused(cfg: CfgNode, root: Path) -> None:
    (root / "empty").mkdir()
    with pytest.raises(UserError, match=r"animals/empty is a class without images\. Add its images"):
        load(cfg, root)


def test_an_unreadable_image_is_named(cfg: CfgNode, root: Path) -> None:
    (root / "cat" / "broken.jpg").write_bytes(b"not an image")
    with pytest.raises(UserError, match=r"cat/broken\.jpg"):
        load(cfg, root)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"CLASSES": ["dogs"]}, r"CLASSES names 'dogs', but .* has no such folder\. Did you mean 'dog'"),
        ({"NO_OBJECT": "none"}, "NO_OBJECT names 'none'"),
        ({"CLASSES": ["dog", "dog"]}, "must name distinct folders"),
        ({"CLASSES": "dog"}, "CLASSES = 'dog' must be of type list"),
    ],
)
def test_faulty_fields_are_refused(cfg: CfgNode, root: Path, fields: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(cfg, root, **fields)


def test_a_folder_of_images_alone_is_explained(cfg: CfgNode, root: Path) -> None:
    with pytest.raises(UserError, match=r"holds no folders\. .* one subfolder of images per class"):
        load(cfg, root / "cat")

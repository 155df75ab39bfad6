"""MNIST's IDX files, with bytes made by hand."""

import gzip
import pickle
from pathlib import Path

import numpy as np
import pytest

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.data import load_dataset
from mrcnn_zoo.data.formats.idx import load_idx
from mrcnn_zoo.data.loading.mapper import build_eval_mapper
from mrcnn_zoo.data.records import Dataset
from mrcnn_zoo.errors import UserError

# Two images of 2 rows and 3 columns: two zero bytes, type 8 (unsigned byte), three axes and their big-endian lengths.
IMAGES = bytes.fromhex("00000803 00000002 00000002 00000003") + bytes([0, 1, 2, 3, 4, 5, 10, 20, 30, 40, 50, 60])
LABELS = bytes.fromhex("00000801 00000002") + bytes([2, 0])


def load(cfg: CfgNode, folder: Path, images: bytes = IMAGES, labels: bytes = LABELS, **fields: object) -> Dataset:
    (folder / "images").write_bytes(images)
    (folder / "labels").write_bytes(labels)
    files = {"IMAGES": str(folder / "images"), "LABELS": str(folder / "labels")}
    cfg.DATASETS.DEFINITIONS = CfgNode({"digits": {"FORMAT": "idx", **files, **fields}})
    return load_dataset(cfg, "digits")


def test_images_and_labels_are_paired_by_position(cfg: CfgNode, tmp_path: Path) -> None:
    dataset = load(cfg, tmp_path)
    assert dataset.class_names == ("0", "1", "2")
    first, second = dataset.records
    assert [record.instances[0].class_index for record in (first, second)] == [2, 0]
    assert first.instances[0].box == (0, 0, 3, 2)
    assert first.image_size == (2, 3)
    assert second.source.read()[:, :, 1].tolist() == [[10, 20, 30], [40, 50, 60]]
    assert second.source.name == f"{tmp_path / 'images'} [1]"
    copy = pickle.loads(pickle.dumps(second.source))
    assert (copy.read() == second.source.read()).all()


def test_compressed_files_and_names_of_classes(cfg: CfgNode, tmp_path: Path) -> None:
    dataset = load(cfg, tmp_path, gzip.compress(IMAGES), gzip.compress(LABELS), CLASSES=["zero", "one", "two"])
    assert dataset.class_names == ("zero", "one", "two")
    assert len(dataset) == 2


@pytest.mark.parametrize(("mean", "channels"), [([0.0], 1), ([0.0, 0.0, 0.0], 3)])
def test_grey_images_fit_models_of_one_and_of_three_channels(
    cfg: CfgNode, tmp_path: Path, mean: list[float], channels: int
) -> None:
    record = load(cfg, tmp_path).records[0]
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = mean, [1.0] * channels
    cfg.INPUT.FORMAT = "L" if channels == 1 else "BGR"
    image = build_eval_mapper(cfg)(record, np.random.default_rng(0)).image
    assert image.tolist() == [[[0, 1, 2], [3, 4, 5]]] * channels


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": b"\x89PNG"}, "images: is not an IDX file; it starts with 89 50 4e 47"),
        ({"images": IMAGES[:-1]}, "images: its header gives 2 x 2 x 3 bytes, but 11 follow"),
        ({"images": LABELS, "labels": IMAGES}, "IMAGES and LABELS may be exchanged"),
        ({"labels": IMAGES}, "LABELS of format idx is a file of one label per image"),
        ({"labels": LABELS[:7] + b"\x01\x02"}, "has 2 images, .*labels 1 label. Name the two files of one split"),
        ({"labels": LABELS[:2] + b"\x0d" + LABELS[3:]}, "labels: holds numbers of IDX type 0x0d"),
        ({"CLASSES": ["zero", "one"]}, "labels: label 2 of image 0 has no name: CLASSES .* has 2 names"),
        ({"images": bytes.fromhex("00000803 00000000 00000002 00000003")}, "It has no images"),
    ],
)
def test_faulty_files_are_refused(cfg: CfgNode, tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(cfg, tmp_path, **changes)  # type: ignore[arg-type]


def test_one_file_for_images_and_labels_is_refused_by_its_field(tmp_path: Path) -> None:
    path = tmp_path / "both"
    path.write_bytes(IMAGES)
    with pytest.raises(UserError, match="but LABELS of format idx is a file of one label per image"):
        load_idx("both", path, path)

"""Images and labels in two IDX files, as of MNIST; see `mrcnn_zoo.data.synthetic.digits` for the format."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.data.catalog import read_fields
from mrcnn_zoo.data.paths import find_path
from mrcnn_zoo.data.records import Dataset, ImageRecord, filling_object
from mrcnn_zoo.data.synthetic.digits import read_idx
from mrcnn_zoo.errors import UserError, counted
from mrcnn_zoo.registries import DATASET_FORMATS

GREY_AXES, LABEL_AXES = 3, 1  # images by rows by columns; labels
CACHED_FILES = 4  # per process: images of training and test sets


@dataclass(frozen=True)
class IdxImage:
    """One image of an IDX file, which each process reads once."""

    path: str
    row: int

    @property
    def name(self) -> str:
        """The file and the number of the image, from 0."""
        return f"{self.path} [{self.row}]"

    def read(self) -> NDArray[np.uint8]:
        """(H, W, 3) with grey repeated, as of an image file."""
        return np.repeat(_cached_array(self.path)[self.row, :, :, None], 3, axis=2)


@lru_cache(maxsize=CACHED_FILES)
def _cached_array(path: str) -> NDArray[np.uint8]:
    return read_idx(Path(path))


@DATASET_FORMATS.register("idx")
def build_idx_dataset(cfg: CfgNode, name: str, definition: Mapping[str, Any]) -> Dataset:  # noqa: ARG001
    """Fields: IMAGES and LABELS, the files, also compressed with gzip; CLASSES, the name of each label, [] for the
    labels as names: "0", "1", ..."""
    fields = read_fields(name, definition, required=("IMAGES", "LABELS"), optional={"CLASSES": []})
    return load_idx(
        name,
        find_path(fields["IMAGES"], dataset=name, what="IDX file of images (IMAGES)"),
        find_path(fields["LABELS"], dataset=name, what="IDX file of labels (LABELS)"),
        class_names=[str(item) for item in fields["CLASSES"]],
    )


def load_idx(name: str, images: Path, labels: Path, *, class_names: Sequence[str] = ()) -> Dataset:
    """Grey images of one size, each with one object that fills it.

    Args:
        name: of the dataset.
        images: file of (N, H, W) unsigned bytes.
        labels: file of (N,) unsigned bytes, the class indices.
        class_names: by class index; "0" to the largest label by default.

    Raises:
        UserError: a file that is not IDX, has another number of axes, or no images; lengths that differ; or a label
            without a name.
    """
    pixels, classes = read_idx(images), read_idx(labels)
    for field, path, array, axes, what in (
        ("IMAGES", images, pixels, GREY_AXES, "images by rows by columns"),
        ("LABELS", labels, classes, LABEL_AXES, "one label per image"),
    ):
        if array.ndim != axes:
            raise UserError(
                f"{path}: has {counted(array.ndim, 'axis', 'axes')} of {' x '.join(map(str, array.shape))}, but "
                f"{field} of format idx is a file of {what}. Check DATASETS.DEFINITIONS.{name}: IMAGES and LABELS may "
                "be exchanged."
            )
    if not pixels.size:
        raise UserError(f"{images}: its header gives {' x '.join(map(str, pixels.shape))} pixels. It has no images.")
    if len(pixels) != len(classes):
        raise UserError(
            f"{images} has {counted(len(pixels), 'image')}, {labels} {counted(len(classes), 'label')}. Name the two "
            "files of one split."
        )
    names = tuple(class_names) or tuple(map(str, range(int(classes.max()) + 1)))
    if int(classes.max()) >= len(names):
        row = int(classes.argmax())
        raise UserError(
            f"{labels}: label {int(classes[row])} of image {row} has no name: CLASSES of DATASETS.DEFINITIONS.{name} "
            f"has {counted(len(names), 'name')}, for labels from 0 on."
        )
    size = (int(pixels.shape[1]), int(pixels.shape[2]))
    records = tuple(
        ImageRecord(row + 1, IdxImage(str(images), row), size, (filling_object(size, label, annotation_id=row + 1),))
        for row, label in enumerate(classes.tolist())
    )
    return Dataset(name, records, names, tuple(range(1, len(names) + 1)))

"""The nuclei of the 2018 Data Science Bowl as Kaggle ships them: a folder an image, a PNG an object."""

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.data.cache import cache_key, read_cache, write_cache
from mrcnn_zoo.data.definitions import read_fields
from mrcnn_zoo.data.formats.nuclei_folder import (
    NucleiFiles,
    NucleiImage,
    all_notes,
    list_folder,
    read_folder,
    stratum_of,
)
from mrcnn_zoo.data.images import FileImage
from mrcnn_zoo.data.paths import find_folder
from mrcnn_zoo.data.records import Dataset, ImageRecord, InstanceRecord
from mrcnn_zoo.data.repairs import RepairLog
from mrcnn_zoo.data.splitting import choose_validation
from mrcnn_zoo.errors import UserError, counted
from mrcnn_zoo.registries import DATASET_FORMATS

logger = logging.getLogger(__name__)

SPLITS = ("train", "val", "all")
CACHE_VERSION = "1"  # to be raised when what is cached changes its meaning
READERS = 4  # threads; decoding PNGs releases Python's lock


def load_dsb2018(
    name: str, root: Path, *, split: str = "all", val_fraction: float = 0.2, seed: int = 0, class_name: str = "nucleus"
) -> Dataset:
    """All folders below `root`, or those of one side of a stratified split.

    Args:
        name: of the dataset.
        root: the folder with one subfolder an image.
        split: "train", "val" or "all".
        val_fraction: share of the images that "val" gets and "train" does not.
        seed: of the split.
        class_name: of the one class.

    Raises:
        UserError: a folder without images, or a file that cannot be used.
    """
    images = read_all(root)
    if split != "all":
        chosen = choose_validation({image.name: stratum_of(image) for image in images}, val_fraction, seed=seed)
        numbered = [
            (number, image) for number, image in enumerate(images, 1) if (image.name in chosen) == (split == "val")
        ]
    else:
        numbered = list(enumerate(images, 1))
    if not numbered:
        raise UserError(f"dataset {name!r}: the split {split!r} of the {len(images)} images in {root} is empty.")
    repairs = RepairLog()
    for kind, paths in all_notes([image for _, image in numbered]):
        repairs.add(kind, paths, name="file")
    return Dataset(
        name=name,
        records=_as_records(root, numbered),
        class_names=(class_name,),
        category_ids=(1,),
        notes=repairs.notes(),
    )


def read_all(root: Path) -> list[NucleiImage]:
    """Every image below `root`, sorted by name; from the cache when no file has changed since it was written."""
    names = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise UserError(f"{root} holds no folders; format dsb2018 has one subfolder an image.")
    folders = [list_folder(root, name) for name in names]
    key = cache_key([CACHE_VERSION, str(root.resolve()), *(folder.fingerprint for folder in folders)])
    cached = read_cache("dsb2018", key)
    if cached is not None:
        return [NucleiImage.from_json(fields) for fields in cached]
    images = _read_in_parallel(root, folders)
    write_cache("dsb2018", key, [image.as_json() for image in images])
    return images


def _read_in_parallel(root: Path, folders: Sequence[NucleiFiles]) -> list[NucleiImage]:
    masks = sum(len(folder.masks) for folder in folders)
    logger.info(
        "%s: reading %s and %s; the next time it comes from a cache",
        root,
        counted(len(folders), "image"),
        counted(masks, "mask"),
    )
    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(partial(read_folder, root), folders))


def _as_records(root: Path, numbered: Sequence[tuple[int, NucleiImage]]) -> tuple[ImageRecord, ...]:
    """Records whose image ids number all images of the folder, so that no id is in both splits."""
    annotation_ids = count(1)
    return tuple(
        ImageRecord(
            image_id=number,
            source=FileImage(str(root / image.file_name)),
            image_size=image.size,
            instances=tuple(
                InstanceRecord(
                    box=nucleus.box,
                    class_index=0,
                    segmentation={"size": list(image.size), "counts": nucleus.counts},
                    area=nucleus.area,
                    annotation_id=next(annotation_ids),
                )
                for nucleus in image.nuclei
            ),
        )
        for number, image in numbered
    )


@DATASET_FORMATS.register("dsb2018")
def build_dsb2018_dataset(cfg: CfgNode, name: str, definition: Mapping[str, Any]) -> Dataset:  # noqa: ARG001
    """Fields: IMAGES, the folder; SPLIT train, val or all; VAL_FRACTION, SEED of the split; CLASS."""
    optional = {"SPLIT": "all", "VAL_FRACTION": 0.2, "SEED": 0, "CLASS": "nucleus"}
    fields = read_fields(name, definition, required=("IMAGES",), optional=optional)
    where = f"DATASETS.DEFINITIONS.{name}"
    if fields["SPLIT"] not in SPLITS:
        raise UserError(f"{where}.SPLIT = {fields['SPLIT']!r} is not one of {', '.join(SPLITS)}.")
    if not fields["CLASS"].strip():
        raise UserError(f"{where}.CLASS is empty; give the name of the class.")
    return load_dsb2018(
        name,
        find_folder(fields["IMAGES"], dataset=name, what="folder of images (IMAGES)"),
        split=fields["SPLIT"],
        val_fraction=float(fields["VAL_FRACTION"]),
        seed=fields["SEED"],
        class_name=fields["CLASS"],
    )

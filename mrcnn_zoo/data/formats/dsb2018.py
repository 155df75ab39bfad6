"""Nuclei of the 2018 Data Science Bowl: one folder per image, one PNG mask per object."""

import logging
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.data.catalog import read_fields
from mrcnn_zoo.data.images.pixels import stretch
from mrcnn_zoo.data.images.reading import FileImage, open_image, read_bitmap
from mrcnn_zoo.data.paths import cache_key, find_folder, read_cache, write_cache
from mrcnn_zoo.data.records import Dataset, ImageRecord, InstanceRecord, RepairLog
from mrcnn_zoo.data.splits import digest
from mrcnn_zoo.errors import UserError, counted
from mrcnn_zoo.ops import rle
from mrcnn_zoo.registries import DATASET_FORMATS

# Thresholds between modalities, in grey levels of 255; the 670 images of stage 1 have wide gaps around them.
COLOURED_SATURATION = 5.0  # mean of max - min over the channels
BRIGHT_BACKGROUND = 100.0  # median grey
TINTED_BACKGROUND = 30.0  # max - min of the channels' medians

SPLITS = ("train", "val", "all")
CACHE_VERSION = "1"  # increase it when the meaning of the cached values changes
READERS = 4  # threads; decoding PNGs releases the GIL

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Nucleus:
    """One object."""

    counts: str  # compressed run lengths
    box: tuple[float, float, float, float]  # x1 y1 x2 y2
    area: float  # pixels


@dataclass(frozen=True)
class NucleiImage:
    """The content of a folder, as it is cached."""

    name: str  # of the folder
    file_name: str  # of the image, relative to the root
    size: tuple[int, int]  # (height, width)
    modality: str
    nuclei: tuple[Nucleus, ...]
    empty_masks: tuple[str, ...]  # PNGs without a pixel set
    overlapping_masks: tuple[str, ...]  # PNGs that share pixels with an earlier one

    def as_json(self) -> dict[str, Any]:
        """The fields as plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Self:
        """The inverse of `as_json`; JSON turns tuples into lists."""
        nuclei = tuple(Nucleus(item["counts"], tuple(item["box"]), item["area"]) for item in fields["nuclei"])
        tuples = {name: tuple(fields[name]) for name in ("size", "empty_masks", "overlapping_masks")}
        return cls(
            name=fields["name"], file_name=fields["file_name"], modality=fields["modality"], nuclei=nuclei, **tuples
        )


@dataclass(frozen=True)
class NucleiFiles:
    """The PNGs of a folder."""

    name: str
    image: str  # relative to the root
    masks: tuple[str, ...]  # relative, sorted
    fingerprint: str  # changes with the name, size or time of a file


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


def load_dsb2018(
    name: str, root: Path, *, split: str = "all", val_fraction: float = 0.2, seed: int = 0, class_name: str = "nucleus"
) -> Dataset:
    """The dataset of all folders below `root`, or of one side of a stratified split.

    Args:
        name: of the dataset.
        root: the folder with one subfolder per image.
        split: "train", "val" or "all".
        val_fraction: share of the images in "val", in (0, 1).
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
    for _, image in numbered:
        repairs.add("empty mask files left out", image.empty_masks, name="file")
    for _, image in numbered:
        repairs.add("masks that overlap another kept as they are", image.overlapping_masks, name="file")
    return Dataset(
        name=name,
        records=_as_records(root, numbered),
        class_names=(class_name,),
        category_ids=(1,),
        notes=repairs.notes(),
    )


def _as_records(root: Path, numbered: Sequence[tuple[int, NucleiImage]]) -> tuple[ImageRecord, ...]:
    """Records with image ids that number all images of the folder, so that the splits share no id."""
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


def read_all(root: Path) -> list[NucleiImage]:
    """Every image below `root`, sorted by name; from the cache if no file has changed since it was written.

    Raises:
        UserError: no folders, or a file that cannot be read.
    """
    names = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise UserError(f"{root} holds no folders; format dsb2018 has one subfolder per image.")
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
        "%s: reading %s and %s; the next time they come from the cache",
        root,
        counted(len(folders), "image"),
        counted(masks, "mask"),
    )
    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(partial(read_folder, root), folders))


def list_folder(root: Path, name: str) -> NucleiFiles:
    """List the files of one image without opening them.

    Args:
        root: the folder of the dataset.
        name: of the image's folder.

    Raises:
        UserError: a folder without `images` and `masks`, or with several images.
    """
    images, masks = (_pngs(root, name, kind) for kind in ("images", "masks"))
    if len(images) != 1:
        raise UserError(f"{root / name / 'images'} must hold one PNG, it holds {len(images)}.")
    fingerprint = " ".join(f"{path}:{size}:{time}" for path, size, time in images + masks)
    return NucleiFiles(name, images[0][0], tuple(path for path, _, _ in masks), fingerprint)


def _pngs(root: Path, name: str, kind: str) -> list[tuple[str, int, int]]:
    """(path relative to the root, bytes, modification time) of each PNG, sorted."""
    folder = root / name / kind
    try:
        with os.scandir(folder) as entries:
            found = [(entry.name, entry.stat()) for entry in entries if entry.name.lower().endswith(".png")]
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(
            f"{folder} is missing. A dataset of format dsb2018 is a folder with one subfolder per image, "
            "each with 'images' (one PNG) and 'masks' (one PNG per object)."
        ) from error
    return sorted((f"{name}/{kind}/{file}", stat.st_size, stat.st_mtime_ns) for file, stat in found)


def read_folder(root: Path, files: NucleiFiles) -> NucleiImage:
    """Read the modality of an image and the masks of its nuclei.

    Args:
        root: the folder of the dataset.
        files: of the image.

    Raises:
        UserError: a PNG that cannot be read, or a mask of another size than the image.
    """
    pixels = FileImage(str(root / files.image)).read(max_pixels=0)
    size = (int(pixels.shape[0]), int(pixels.shape[1]))
    covered = np.zeros(size, dtype=bool)
    nuclei, empty, overlapping = [], [], []
    for path in files.masks:
        bitmap = _read_mask(root / path, size, root / files.image)
        nucleus = _encode(bitmap)
        if nucleus.area == 0:
            empty.append(path)
            continue
        x1, y1, x2, y2 = (int(edge) for edge in nucleus.box)
        window = (slice(y1, y2), slice(x1, x2))
        if (covered[window] & bitmap[window]).any():
            overlapping.append(path)
        covered[window] |= bitmap[window]
        nuclei.append(nucleus)
    return NucleiImage(
        name=files.name,
        file_name=files.image,
        size=size,
        modality=modality_of(pixels),
        nuclei=tuple(nuclei),
        empty_masks=tuple(empty),
        overlapping_masks=tuple(overlapping),
    )


def _read_mask(path: Path, size: tuple[int, int], image_path: Path) -> NDArray[np.bool_]:
    with open_image(str(path)) as image:  # the header only: a mask of another size may need any amount of memory
        width, height = image.size
    if (height, width) != size:
        raise UserError(
            f"{path} is {width} x {height} pixels (width x height) where its image "
            f"{image_path.name} is {size[1]} x {size[0]}. A mask must have the size of its image."
        )
    return read_bitmap(str(path))


def _encode(bitmap: NDArray[np.bool_]) -> Nucleus:
    encoded = rle.encode(bitmap)
    x1, y1, x2, y2 = map(float, rle.bounding_box(encoded) or (0, 0, 0, 0))
    return Nucleus(encoded["counts"], (x1, y1, x2, y2), float(rle.area(encoded)))


def modality_of(pixels: NDArray[np.generic]) -> str:
    """The kind of microscopy, from the colours: fluorescence, brightfield, stained_tinted or stained_white.

    Args:
        pixels: (H, W, 3) RGB, any depth.
    """
    if pixels.dtype != np.uint8:
        pixels = stretch(pixels)
    red, green, blue = (np.ascontiguousarray(pixels[:, :, channel]) for channel in range(3))
    background = np.array([np.median(channel) for channel in (red, green, blue)])
    brightest, darkest = np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)
    if float((brightest - darkest).mean()) < COLOURED_SATURATION:
        return "brightfield" if float(background.mean()) > BRIGHT_BACKGROUND else "fluorescence"
    return "stained_tinted" if float(np.ptp(background)) > TINTED_BACKGROUND else "stained_white"


def stratum_of(image: NucleiImage) -> str:
    """The stratum of an image for splitting: its modality and size, which identify the kind of experiment."""
    return f"{image.modality} {image.size[0]}x{image.size[1]}"


def choose_validation(strata: Mapping[str, str], fraction: float, *, seed: int = 0) -> set[str]:
    """The names of the validation images: a share of each stratum, chosen by a hash of the name.

    The choice depends on names, strata and seed only, not on order or machine. The share of all images is exact;
    rounding follows the largest remainders.

    Args:
        strata: image name -> name of its stratum.
        fraction: share of the validation images, 0 to 1.
        seed: of the choice.
    """
    members: dict[str, list[str]] = defaultdict(list)
    for name, stratum in strata.items():
        members[stratum].append(name)
    shares = {stratum: len(names) * fraction for stratum, names in members.items()}
    counts = {stratum: int(share) for stratum, share in shares.items()}
    missing = int(len(strata) * fraction + 0.5) - sum(counts.values())
    by_remainder = sorted(members, key=lambda stratum: (counts[stratum] - shares[stratum], stratum))
    for stratum in by_remainder[:missing]:
        counts[stratum] += 1
    chosen: set[str] = set()
    for stratum, names in members.items():
        chosen.update(sorted(names, key=lambda name: digest(name, seed))[: counts[stratum]])
    return chosen

"""One image of the 2018 Data Science Bowl: a folder with the image and a PNG of each nucleus."""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from typing_extensions import Self

from mrcnn_zoo.data.images import FileImage, open_image, read_bitmap
from mrcnn_zoo.data.pixels import stretch
from mrcnn_zoo.errors import UserError

# Thresholds between kinds of images, in grey levels of 255; they lie in wide gaps of the 670 images of stage 1.
COLOURED_SATURATION = 5.0  # mean of max - min over the channels
BRIGHT_BACKGROUND = 100.0  # median grey
TINTED_BACKGROUND = 30.0  # max - min of the channels' medians


@dataclass(frozen=True)
class Nucleus:
    """One mask."""

    counts: str  # compressed run lengths
    box: tuple[float, float, float, float]  # x1 y1 x2 y2
    area: float  # pixels


@dataclass(frozen=True)
class NucleiImage:
    """What a folder holds; plain enough for a JSON cache."""

    name: str  # of the folder
    file_name: str  # of the image, relative to the folder of all
    size: tuple[int, int]  # (height, width)
    modality: str
    nuclei: tuple[Nucleus, ...]
    empty_masks: tuple[str, ...]  # PNGs without a pixel set
    overlapping_masks: tuple[str, ...]  # PNGs that share pixels with one before

    def as_json(self) -> dict[str, Any]:
        """The fields as lists and strings."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Self:
        """What `as_json` gave, after JSON made lists of the tuples."""
        nuclei = tuple(Nucleus(item["counts"], tuple(item["box"]), item["area"]) for item in fields["nuclei"])
        tuples = {name: tuple(fields[name]) for name in ("size", "empty_masks", "overlapping_masks")}
        return cls(
            name=fields["name"], file_name=fields["file_name"], modality=fields["modality"], nuclei=nuclei, **tuples
        )


@dataclass(frozen=True)
class NucleiFiles:
    """The PNGs of a folder."""

    name: str
    image: str  # relative to the folder of all
    masks: tuple[str, ...]  # relative, sorted
    fingerprint: str  # changes when a file does


def list_folder(root: Path, name: str) -> NucleiFiles:
    """The files of one image, without opening them.

    Raises:
        UserError: a folder without `images` and `masks`, or with several images.
    """
    images, masks = (_pngs(root, name, kind) for kind in ("images", "masks"))
    if len(images) != 1:
        raise UserError(f"{root / name / 'images'} must hold one PNG, it holds {len(images)}.")
    fingerprint = " ".join(f"{path}:{size}:{time}" for path, size, time in images + masks)
    return NucleiFiles(name, images[0][0], tuple(path for path, _, _ in masks), fingerprint)


def _pngs(root: Path, name: str, kind: str) -> list[tuple[str, int, int]]:
    """(path relative to the root, bytes, time of change) of each PNG, sorted."""
    folder = root / name / kind
    try:
        with os.scandir(folder) as entries:
            found = [(entry.name, entry.stat()) for entry in entries if entry.name.lower().endswith(".png")]
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(
            f"{folder} is missing. A dataset of format dsb2018 is a folder with one subfolder an image, "
            "each with 'images' (one PNG) and 'masks' (one PNG an object)."
        ) from error
    return sorted((f"{name}/{kind}/{file}", stat.st_size, stat.st_mtime_ns) for file, stat in found)


def read_folder(root: Path, files: NucleiFiles) -> NucleiImage:
    """The image's kind and the masks of its nuclei.

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
    with open_image(str(path)) as image:  # only its header: a mask of another size may need any amount of memory
        width, height = image.size
    if (height, width) != size:
        raise UserError(
            f"{path} is {width} x {height} pixels (width x height) where its image "
            f"{image_path.name} is {size[1]} x {size[0]}. A mask must have the size of its image."
        )
    return read_bitmap(str(path))


def _encode(bitmap: NDArray[np.bool_]) -> Nucleus:
    rle = coco_mask.encode(np.asfortranarray(bitmap, dtype=np.uint8))
    x, y, width, height = (float(side) for side in coco_mask.toBbox(rle))
    return Nucleus(rle["counts"].decode("ascii"), (x, y, x + width, y + height), float(coco_mask.area(rle)))


def modality_of(pixels: NDArray[np.generic]) -> str:
    """What kind of microscopy an image is, from its colours: fluorescence, brightfield or one of two stains.

    Args:
        pixels: (H, W, 3) RGB.
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
    """Images of one stratum come from the same kind of experiment: same modality, same size."""
    return f"{image.modality} {image.size[0]}x{image.size[1]}"


def all_notes(images: Sequence[NucleiImage]) -> list[tuple[str, list[str]]]:
    """What is odd about the masks, with the PNGs concerned."""
    return [
        ("empty mask files left out", [path for image in images for path in image.empty_masks]),
        ("masks that overlap another kept as they are", [path for image in images for path in image.overlapping_masks]),
    ]

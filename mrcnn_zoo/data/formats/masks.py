"""One mask file per object: a folder per image as in the 2018 Data Science Bowl, or `images/x.png` and `masks/x/`."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mrcnn_zoo.data.annotations.contract import AnnotationFormat, Found, ReadOptions
from mrcnn_zoo.data.annotations.listing import FileListing, side_of_folders
from mrcnn_zoo.data.annotations.loading import annotation_format
from mrcnn_zoo.data.annotations.mask_files import (
    MaskedImage,
    ObjectMask,
    add_mask_repairs,
    masked_dataset,
    masked_record,
    read_masks,
)
from mrcnn_zoo.data.annotations.writing import DatasetWriter
from mrcnn_zoo.data.formats.label_files import IMAGE_FOLDERS, LabelFile, needs_tifffile, read_label_stack, read_labels
from mrcnn_zoo.data.images.pixels import stretch
from mrcnn_zoo.data.images.reading import FileImage, open_image, read_bitmap
from mrcnn_zoo.data.images.stacks import pages_of
from mrcnn_zoo.data.paths import EXAMPLES_SHOWN
from mrcnn_zoo.data.records import Dataset, RepairLog
from mrcnn_zoo.errors import UserError, counted
from mrcnn_zoo.ops import rle
from mrcnn_zoo.ops.masks import MaskWindow
from mrcnn_zoo.structures import ImageSize

CLASS_NAME = "object"  # of masks that are not in a folder of their class
MASK_FOLDERS = ("masks", "mask")
IMAGES_WRITTEN, MASKS_WRITTEN = "images", "masks"  # folders
# Thresholds between modalities, in grey levels of 255; the 670 images of DSB2018's stage 1 have wide gaps around them.
COLOURED_SATURATION = 5.0  # mean of max - min over the channels
BRIGHT_BACKGROUND = 100.0  # median grey
TINTED_BACKGROUND = 30.0  # max - min of the channels' medians

logger = logging.getLogger(__name__)


class MaskFiles(NamedTuple):
    """An image and the masks of its objects."""

    image: str  # relative to the root
    masks: tuple[tuple[str, str], ...]  # path relative to the root, and the folder of its class or ""


class Groups(NamedTuple):
    """The mask files of a folder by image."""

    files: list[MaskFiles]  # by the path of the image
    missing: list[str]  # masks without an image
    unlabelled: list[str]  # images without masks


@annotation_format("masks")
class MasksFormat(AnnotationFormat):
    """Mask files. A folder between the masks and that of their image is the name of their class."""

    finds_images_elsewhere = False
    title = "mask files, one per object"
    looked_for = "masks/x/*.png beside images/x.png, or folders with images/ (one image) and masks/: a mask per object"

    def find(self, listing: FileListing) -> Found | None:
        """Mask files by image; without reading them."""
        groups = group_mask_files(listing)
        if not groups.files or listing.file:
            return None
        by_side: dict[str, list[MaskFiles]] = {}
        for files in groups.files:
            by_side.setdefault(side_of_folders(files.image), []).append(files)
        num_masks = sum(len(files.masks) for files in groups.files)
        first = next((path for files in groups.files for path, _ in files.masks), "")
        return Found(listing, by_side, f"{counted(num_masks, 'file')}, e.g. {first}")

    def read_dataset(self, found: Found, options: ReadOptions) -> Dataset:
        """The dataset of all sides, in the order of the image files."""
        root, repairs = found.listing.root, RepairLog("image")
        groups = group_mask_files(found.listing)
        if groups.missing:
            more = ", ..." if len(groups.missing) > EXAMPLES_SHOWN else ""
            raise UserError(
                f"{root}: {counted(len(groups.missing), 'mask')} without an image: "
                f"{', '.join(groups.missing[:EXAMPLES_SHOWN])}{more}. Name the folder of the masks like the image, and "
                "copy the images there, or remove the masks."
            )
        repairs.add("images without a folder of masks left out", groups.unlabelled)
        logger.info("%s: reading %s and their masks", root, counted(len(groups.files), "image"))
        read = partial(_read_pages_with_masks, root=root, pages_are_images=options.pages_are_images)
        pages = read_masks(groups.files, read)
        images = [image for found in pages for image in found]
        add_mask_repairs(repairs, images)
        present = {item.name for image in images for item in image.objects}
        indices = {name: index for index, name in enumerate(sorted({name or CLASS_NAME for name in present}))}
        annotation_ids = count(1)
        records = [
            masked_record(
                image,
                root / image.image,
                image_id=number,
                annotation_ids=annotation_ids,
                classify=lambda item: (indices[item.name or CLASS_NAME], None),
                split=side_of_folders(image.image),
                stratum=image.modality,
            )
            for number, image in enumerate(images, start=1)
        ]
        return masked_dataset(options.name, records, tuple(indices) or (CLASS_NAME,), repairs=repairs)

    def write(self, parts: Mapping[str, Dataset], folder: Path, writer: DatasetWriter) -> None:
        """`images/` and `masks/<image>/<number>.png`, in folders of classes if there are several; sides as folders."""
        for side, dataset in parts.items():
            for record in dataset.records:
                writer.place_image(record, folder / side / IMAGES_WRITTEN)
                masks_folder = folder / side / MASKS_WRITTEN / writer.stem(record)
                masks_folder.mkdir(parents=True)
                places = {
                    "regions of uncounted objects left out": [item for item in record.instances if item.is_crowd],
                    "scores left out": [item for item in record.instances if item.score is not None],
                }
                for kind, items in places.items():
                    writer.lost.add(kind, [writer.place_of(record, item) for item in items])
                kept = [item for item in record.instances if not item.is_crowd]
                for number, instance in enumerate(kept, start=1):
                    name = dataset.class_names[instance.class_index]
                    has_folder = dataset.class_names != (CLASS_NAME,)
                    target = masks_folder / _folder_of_class(name) if has_folder else masks_folder
                    target.mkdir(exist_ok=True)
                    path = target / f"{number:0{len(str(len(kept)))}d}.png"
                    _save(rle.decode_window(writer.mask(record, instance)), record.image_size, path)


def _save(window: MaskWindow | None, size: ImageSize, path: Path) -> None:
    pixels = np.zeros(size, dtype=np.uint8)
    if window is not None:
        height, width = window.bitmap.shape
        pixels[window.y : window.y + height, window.x : window.x + width] = window.bitmap * np.uint8(255)
    Image.fromarray(pixels).save(path)


def _folder_of_class(name: str) -> str:
    return "".join("_" if letter in '/\\:*?"<>|' else letter for letter in name).strip(". ") or "_"


def group_mask_files(listing: FileListing) -> Groups:
    """Mask files and their images, in either layout, at any depth.

    Args:
        listing: of a folder.
    """
    stems: dict[str, str] = {}
    by_folder: dict[str, list[str]] = {}
    for name in listing.images:
        stems.setdefault(name.rpartition(".")[0], name)
        by_folder.setdefault(name.rpartition("/")[0], []).append(name)
    masks: dict[str, list[tuple[str, str]]] = {}
    missing, mask_names, num_paired = [], set(), 0
    for name in listing.images:
        parts = name.split("/")
        place = next((place for place, part in enumerate(parts[:-1]) if part.lower() in MASK_FOLDERS), -1)
        if place < 0:
            continue
        mask_names.add(name)
        image, class_name = _image_of_mask(parts[:place], parts[place + 1 :], stems, by_folder)
        if image:
            masks.setdefault(image, []).append((name, class_name))
            num_paired += place == len(parts) - 2 and LabelFile(name, image).stem == _stem(image)
        else:
            missing.append(name)
    if max(len(missing), num_paired) >= len(mask_names) / 2:
        return Groups([], [], [])  # label images, which have the names of their images, or another layout
    rest = [name for name in listing.images if name not in mask_names and name not in masks]
    without = {name for name in rest if _has_empty_folder(listing.root, name)}
    # By their names: folders of classes do not change the order in which the objects were written.
    files = [MaskFiles(image, tuple(sorted(found, key=_by_name))) for image, found in masks.items()]
    files += [MaskFiles(image, ()) for image in without]
    return Groups(sorted(files), missing, [name for name in rest if name not in without])


def _image_of_mask(
    before: Sequence[str], inside: Sequence[str], stems: Mapping[str, str], by_folder: Mapping[str, Sequence[str]]
) -> tuple[str, str]:
    """The image of a mask and the folder of its class, "" for none.

    Args:
        before: folders above that of the masks.
        inside: folders and name of the file below it.
        stems: path of each image by its path without the ending.
        by_folder: images of each folder.
    """
    for folder in (*IMAGE_FOLDERS, ""):
        start = "/".join([*before, folder] if folder else before)
        for length in range(len(inside) - 1, 0, -1):
            stem = "/".join([start, *inside[:length]] if start else inside[:length])
            if stem in stems and len(inside) - 1 - length <= 1:
                return stems[stem], "/".join(inside[length:-1])
        images = by_folder.get(start, ())
        if folder and len(images) == 1 and len(inside) <= 2:
            return images[0], "/".join(inside[:-1])
    return "", ""


def _by_name(mask: tuple[str, str]) -> tuple[str, str]:
    return mask[0].rpartition("/")[2], mask[0]


def _stem(name: str) -> str:
    return name.rpartition("/")[2].rpartition(".")[0]


def _has_empty_folder(root: Path, image: str) -> bool:
    """Whether an image without masks has a folder for them: it is an image without objects."""
    path = root / image
    parent = path.parents[1] if path.parent.name.lower() in IMAGE_FOLDERS else path.parent
    folders = [parent / name for name in MASK_FOLDERS if (parent / name).is_dir()]
    is_empty = parent != root and any(not any(folder.iterdir()) for folder in folders)
    return is_empty or any((folder / path.stem).is_dir() for folder in folders)


def read_image_with_masks(files: MaskFiles, *, root: Path) -> MaskedImage:
    """Read the modality of an image and the masks of its objects.

    Args:
        files: of the image.
        root: of the paths.

    Raises:
        UserError: a file that cannot be read, or a mask of another size than the image.
    """
    pixels = FileImage(str(root / files.image)).read(max_pixels=0)
    size = (int(pixels.shape[0]), int(pixels.shape[1]))
    bitmaps = (_read_mask(root / path, size, root / files.image) for path, _ in files.masks)
    return _masked_image(files, pixels, bitmaps)


def _read_pages_with_masks(files: MaskFiles, *, root: Path, pages_are_images: bool) -> list[MaskedImage]:
    """As `read_image_with_masks`; with several pages each is an image, as are those of its masks."""
    sources = pages_of(str(root / files.image)) if pages_are_images else ()
    if len(sources) < 2:
        return [read_image_with_masks(files, root=root)]
    stacks = [read_label_stack(root / path) != 0 for path, _ in files.masks]
    images = []
    for page, source in enumerate(sources):
        pixels = source.read(max_pixels=0)
        for (path, _), stack in zip(files.masks, stacks, strict=True):
            if stack.shape != (len(sources), *pixels.shape[:2]):
                raise UserError(
                    f"{root / path} has the shape {stack.shape} (pages, height, width) where its image {files.image} "
                    f"has {(len(sources), *pixels.shape[:2])}. With INPUT.PAGES images each page has its masks."
                )
        image = _masked_image(files, pixels, [stack[page] for stack in stacks])
        # A mask that is empty on one page is usual.
        images.append(replace(image, page=page, empty_masks=()))
    return images


def _masked_image(files: MaskFiles, pixels: NDArray[np.generic], bitmaps: Iterable[NDArray[np.bool_]]) -> MaskedImage:
    size = (int(pixels.shape[0]), int(pixels.shape[1]))
    covered = np.zeros(size, dtype=bool)
    objects, empty, overlapping = [], [], []
    for (path, class_name), bitmap in zip(files.masks, bitmaps, strict=True):
        encoded = rle.encode(bitmap)
        box = rle.bounding_box(encoded)
        if box is None:
            empty.append(path)
            continue
        x1, y1, x2, y2 = box
        window = (slice(y1, y2), slice(x1, x2))
        if (covered[window] & bitmap[window]).any():
            overlapping.append(path)
        covered[window] |= bitmap[window]
        objects.append(ObjectMask(encoded["counts"], box, rle.area(encoded), class_name))
    modality = modality_of(pixels) if pixels.shape[2] == 3 else ""
    return MaskedImage(files.image, size, tuple(objects), tuple(empty), tuple(overlapping), modality)


def _read_mask(path: Path, size: tuple[int, int], image_path: Path) -> NDArray[np.bool_]:
    bitmap = None
    if path.suffix.lower() == ".npy" or needs_tifffile(path):
        bitmap = read_labels(path) != 0
        height, width = bitmap.shape
    else:
        with open_image(str(path)) as image:  # the header only: a mask of another size may need any amount of memory
            width, height = image.size
    if (height, width) != size:
        raise UserError(
            f"{path} is {width} x {height} pixels (width x height) where its image "
            f"{image_path.name} is {size[1]} x {size[0]}. A mask must have the size of its image."
        )
    return read_bitmap(str(path)) if bitmap is None else bitmap


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

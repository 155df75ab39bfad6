"""Label images: their pairing with images by folders and names, their pixels, and how they differ from class masks."""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mrcnn_zoo.data.annotations.listing import FileListing, side_of_folders
from mrcnn_zoo.data.images.problems import cannot_decode, read_head
from mrcnn_zoo.data.images.reading import TIFF_BITS, TIFF_MAGIC, TIFF_SAMPLE_FORMAT, open_image
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.restricted_pickle import ArrayUnpickler

IMAGE_FOLDERS = ("images", "image", "imgs", "img", "raw")
LABEL_FOLDERS = ("masks", "labels", "mask", "label", "label_images", "instances")
LABEL_SUFFIXES = ("_cp_masks", "_masks", "_labels", "_label", "_mask", "_seg")  # of stems, the best first
SEGMENTATION = "_seg"  # of cellpose, which writes it as .npy alone
IMAGE_SUFFIXES = ("", "_img", "_image")  # of stems of images, cellpose's
OTHER_OUTPUTS = ("_cp_output", "_flows", "_outlines", "_cp_outlines", "_prob")  # of cellpose, neither image nor label
CELL_TRACKING = re.compile(r"(?P<folder>(?:.*/)?\d\d)_(?P<kind>GT|ST)/SEG/man_seg_?(?P<number>\d+)\.tiff?")
LABEL_MODES = ("1", "L", "P", "I", "F", "I;16", "I;16L", "I;16B", "I;16N")  # of Pillow: one channel
PILLOW_BITS = 16  # of unsigned integers; Pillow reads deeper ones as signed
UNSIGNED = 1  # of the sample format
TIFF_PHOTOMETRIC, WHITE_IS_0 = 262, 0  # tag and its value
FILES_EXAMINED = 4
MAX_CLASSES = 30  # values per file of class masks
CONNECTED = np.ones((3, 3), dtype=np.int8)  # neighbours of one region: pixels that touch at a corner, too
REGIONS_PER_CLASS = 4.0  # mean number of connected regions per value from which values are classes


class LabelFile(NamedTuple):
    """A label image and its image."""

    path: str  # relative to the root
    image: str  # relative to the root; "" where the images are in another folder

    @property
    def stem(self) -> str:
        """The name of its image without the ending."""
        stem = PurePosixPath(self.path).stem
        return next(iter(_without_suffix(stem)), stem)

    @property
    def side(self) -> str:
        """The side that its folders name; "" for none."""
        return side_of_folders(self.path)


class Pairs(NamedTuple):
    """The label images of a folder."""

    files: list[LabelFile]  # by the path of the image
    missing: list[str]  # label images without an image
    unlabelled: list[str]  # images without a label image
    superfluous: list[str]  # further label images of an image


def pair_label_files(listing: FileListing) -> Pairs:
    """Label images and their images: in two folders with equal names, or in one folder with names that end differently.

    Args:
        listing: of a folder.
    """
    stems: dict[str, str] = {}
    for name in listing.images:
        stems.setdefault(name.rpartition(".")[0], name)
    for pairing in (_in_folders, _in_cell_tracking, _by_suffix):
        found: dict[str, str] = {}
        missing, superfluous = [], []
        for name, candidates in pairing(listing.images):
            image = next((stems[stem] for stem in candidates if stem in stems and stems[stem] != name), "")
            if image in found and image:
                superfluous.append(name)
            elif image:
                found[image] = name
            else:
                missing.append(name)
        if found and (pairing is not _in_folders or len(missing) <= len(found)):  # else a mask per object
            used = {*found, *found.values(), *missing, *superfluous}
            unlabelled = [name for name in listing.images if name not in used and not _is_other_output(name)]
            files = [LabelFile(label, image) for image, label in sorted(found.items())]
            return Pairs(files, missing, unlabelled, superfluous)
    return Pairs([], [], [], [])


def _in_folders(names: Sequence[str]) -> Iterator[tuple[str, Iterable[str]]]:
    """`masks/x.png` beside `images/x.png` or `x.png`, at any depth; with the paths of images without their endings."""
    for name in names:
        parts = name.rpartition(".")[0].split("/")
        places = [place for place, part in enumerate(parts[:-1]) if part.lower() in LABEL_FOLDERS]
        if places:
            yield name, _candidates(parts, places)


def _candidates(parts: Sequence[str], places: Sequence[int]) -> Iterator[str]:
    stem = parts[-1]
    stems = (stem, *_without_suffix(stem))
    for place in places:
        before, inside = parts[:place], parts[place + 1 : -1]
        for folder in (*IMAGE_FOLDERS, ""):
            folders = [*before, *([folder] if folder else []), *inside]
            yield from ("/".join([*folders, name]) for name in stems)


def _in_cell_tracking(names: Sequence[str]) -> Iterator[tuple[str, Iterable[str]]]:
    """`01_GT/SEG/man_seg000.tif` beside `01/t000.tif`, as in the Cell Tracking Challenge; GT before ST."""
    matches = [found for name in names if (found := CELL_TRACKING.fullmatch(name))]
    for match in sorted(matches, key=lambda match: match["kind"]):
        yield match[0], [f"{match['folder']}/t{match['number']}"]


def _by_suffix(names: Sequence[str]) -> Iterator[tuple[str, Iterable[str]]]:
    """`x_masks.png` beside `x.png`; the best suffix first."""
    chosen: list[tuple[int, str, str, str]] = []
    for name in names:
        path, _, ending = name.rpartition(".")
        for rank, suffix in enumerate(LABEL_SUFFIXES):
            if path.endswith(suffix) and (suffix != SEGMENTATION or ending == "npy"):
                chosen.append((rank, name, path, suffix))
                break
    for _, name, path, suffix in sorted(chosen):
        stem = path.removesuffix(suffix)
        yield name, [f"{stem}{end}" for end in IMAGE_SUFFIXES]


def _without_suffix(stem: str) -> list[str]:
    return [stem.removesuffix(suffix) for suffix in LABEL_SUFFIXES if stem.endswith(suffix)][:1]


def _is_other_output(name: str) -> bool:
    return name.rpartition(".")[0].endswith(OTHER_OUTPUTS)


def read_labels(path: Path) -> NDArray[np.integer[Any]]:
    """The (H, W) integers of a label image.

    Raises:
        UserError: see `read_label_stack`; several pages.
    """
    stack = read_label_stack(path)
    if len(stack) > 1:
        raise UserError(
            f"{path} has {len(stack)} pages where a label image has one. Set INPUT.PAGES to images if each page of the "
            "label images and of the images is an image of its own."
        )
    return stack[0]


def read_label_stack(path: Path) -> NDArray[np.integer[Any]]:
    """The (P, H, W) integers of the pages of a label image.

    Raises:
        UserError: a file that cannot be read, has several channels, or values that are not whole numbers from 0 on.
    """
    if path.suffix.lower() == ".npy":
        values = _read_npy(path)
    else:
        values = _read_picture(path)
    values = values.squeeze() if values.ndim > 3 else values
    values = values[None] if values.ndim == 2 else values
    if values.ndim != 3 or values.dtype.kind not in "buif":
        raise UserError(
            f"{path} has the shape {values.shape} of {values.dtype}; a label image is (height, width) of whole "
            "numbers, a number per object."
        )
    if values.dtype.kind == "f":
        whole = np.nan_to_num(values, nan=-1.0, posinf=-1.0, neginf=-1.0)
        if (whole != np.rint(whole)).any() or whole.min(initial=0) < 0:
            raise UserError(
                f"{path} holds {values.dtype} values that are not whole numbers from 0 on; a label image has a whole "
                "number per object and 0 elsewhere."
            )
        values = whole.astype(np.int64)
    if values.dtype.kind == "i" and values.min(initial=0) < 0:
        raise UserError(f"{path} holds the label {values.min()}; labels are whole numbers from 1 on, 0 elsewhere.")
    return values.view(np.uint8) if values.dtype == np.bool_ else values


def _read_npy(path: Path) -> NDArray[Any]:
    """An array, or the `masks` of the pickled dict of cellpose's `_seg.npy`, whose code is not run."""
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            read_header = (
                np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            )
            is_pickled = read_header(file)[2].hasobject
            if is_pickled:
                content = ArrayUnpickler(file, encoding="latin1").load().item()
                return np.asarray(content["masks"])
        return np.load(path, allow_pickle=False)
    except Exception as error:  # of many kinds, on damaged files and on pickles of other objects
        raise UserError(
            f"{path} cannot be read as a label image ({str(error).splitlines()[0] if str(error) else error!r}): write "
            "the labels as an integer array with numpy.save, or as a 16-bit PNG or TIFF."
        ) from error


def _read_picture(path: Path) -> NDArray[Any]:
    """The values of an image file of one channel; those of a palette are its indices."""
    if not needs_tifffile(path):
        with open_image(str(path), max_pixels=0) as image:
            if image.format == "JPEG":
                raise UserError(
                    f"{path} is a JPEG, whose compression changes the numbers of objects; write label images as PNG or "
                    "TIFF."
                )
            if image.mode in LABEL_MODES:
                return np.asarray(image)
            raise UserError(
                f"{path} has the colours {image.mode}; a label image has one channel, with a number per object. Write "
                "the numbers as an 8- or 16-bit PNG or TIFF."
            )
    try:
        import tifffile
    except ImportError as error:
        raise UserError(
            f"{path} is a TIFF of 32 bits, of several pages, or of another kind that needs a reader: `pip install "
            "tifffile`."
        ) from error
    try:
        with tifffile.TiffFile(path) as file:
            values, axes = file.series[0].asarray(), file.series[0].axes
    except Exception as error:  # of many kinds, on files that are cut off
        raise cannot_decode(str(path), error) from error
    if "S" in axes or "C" in axes:
        raise UserError(
            f"{path} has channels (axes {axes}, shape {values.shape}); a label image has one, with a number per object."
        )
    return values


def needs_tifffile(path: Path) -> bool:
    """Whether a file is a TIFF whose values Pillow does not read, or changes.

    Raises:
        UserError: a file that is missing or empty.
    """
    if read_head(str(path))[:4] not in TIFF_MAGIC:
        return False
    try:
        with open_image(str(path), max_pixels=0) as image:
            tags = image.tag_v2  # type: ignore[attr-defined]
            is_unsigned = UNSIGNED in tags.get(TIFF_SAMPLE_FORMAT, (UNSIGNED,))
            is_deep = is_unsigned and max(tags.get(TIFF_BITS, (1,))) > PILLOW_BITS
            is_inverted = tags.get(TIFF_PHOTOMETRIC) == WHITE_IS_0  # tifffile's for bool; the values are not inverted
            return is_deep or is_inverted or getattr(image, "n_frames", 1) > 1
    except UserError:
        return True


def examine(root: Path, files: Sequence[LabelFile]) -> str | None:
    """Why files are more likely masks of classes, "" if they are label images, from a few of them; None if neither.

    Args:
        root: of the paths.
        files: in any order.
    """
    images = []
    for file in files[:: max(1, len(files) // FILES_EXAMINED)][:FILES_EXAMINED]:
        try:
            images.append((file.path, read_label_stack(root / file.path)[0]))
        except UserError:
            continue
    if not images:
        return None
    values = [np.unique(labels[labels != 0]) for _, labels in images]
    if not 1 < max(map(len, values)) <= MAX_CLASSES:
        return ""
    pairs = [(labels, value) for (_, labels), found in zip(images, values, strict=True) for value in found]
    regions = [num_regions(labels == value) for labels, value in pairs]
    if np.mean(regions) < REGIONS_PER_CLASS:
        return ""
    present = sorted({int(value) for _, value in pairs})
    return (
        f"{root / images[0][0]} and others look like masks of classes: their values {present} have "
        f"{np.mean(regions):.0f} connected regions each on average, where each object of a label image has a number of "
        "its own. If the numbers are objects, set DATASETS.DEFAULTS.FORMAT labels. If each region is an object, set "
        "DATASETS.DEFAULTS.REGIONS True."
    )


def num_regions(mask: NDArray[np.bool_]) -> int:
    """The number of connected regions of a mask; pixels that touch at a corner are connected.

    Args:
        mask: (H, W).
    """
    from scipy import ndimage

    return int(ndimage.label(mask, structure=CONNECTED)[1])

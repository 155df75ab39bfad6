"""Images of any kind: paths, folders, glob patterns, addresses, arrays, tensors, Pillow images; and their pictures."""

import glob
import io
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from mrcnn_zoo.data.images.pixels import CHANNELS_WITH_ALPHA, COLOUR_CHANNELS, array_of_tensor
from mrcnn_zoo.data.images.problems import cannot_decode
from mrcnn_zoo.data.images.reading import (
    DECODING_ERRORS,
    IMAGE_SUFFIXES,
    FileImage,
    decode,
    decode_with_alpha,
)
from mrcnn_zoo.data.images.stacks import StackPage, pages_of
from mrcnn_zoo.data.paths import image_file_size
from mrcnn_zoo.data.records import ImageSource
from mrcnn_zoo.errors import UserError, counted
from mrcnn_zoo.model_zoo.download import WEB_PREFIXES, forget_download, local_path
from mrcnn_zoo.structures.summary import summary

# A path, folder, glob pattern or address; an array, (H, W) grey or (H, W, C); a tensor, (H, W) or (C, H, W), uint8,
# uint16 or float from 0 to 1; an image of a dataset.
ImageInput = str | Path | NDArray[np.generic] | Image.Image | Tensor | ImageSource

GREY_WITH_ALPHA = 2  # channels
PATTERN_CHARACTERS = "*?["


@dataclass
class FoundImages:
    """The image files of some inputs."""

    output_names: dict[Path, Path] = field(default_factory=dict)  # file -> path relative to the input, without suffix
    problems: list[str] = field(default_factory=list)  # one message per input without images
    pages_are_images: bool = False  # INPUT.PAGES: each page of a TIFF is an image

    @property
    def files(self) -> list[Path]:
        """Distinct files in the order of the inputs."""
        return list(self.output_names)

    def sources(self) -> list[tuple[FileImage | StackPage, Path]]:
        """The images, and the paths of their pictures relative to the output, without suffix."""
        found: list[tuple[FileImage | StackPage, Path]] = []
        for file, place in self.output_names.items():
            for source in _sources_in(str(file), self.pages_are_images):
                found.append((source, place.with_name(source.stem) if isinstance(source, StackPage) else place))
        return found


def _sources_in(file: str, pages_are_images: bool) -> Sequence[FileImage | StackPage]:
    if not pages_are_images:
        return [FileImage(file)]
    try:
        return pages_of(file)
    except UserError:
        return [FileImage(file)]  # whose reading reports the error


def image_files(inputs: Iterable[str | Path]) -> list[Path]:
    """Image files of inputs that all must have some; see `find_images`.

    Args:
        inputs: files, folders and glob patterns.

    Raises:
        UserError: an input has no images.
    """
    found = find_images(inputs)
    if found.problems:
        raise UserError(" ".join(found.problems))
    return found.files


def find_images(inputs: Iterable[str | Path], *, recursive: bool = False, exclude: Path | None = None) -> FoundImages:
    """Find the image files of some inputs; those of a folder are sorted.

    Args:
        inputs: files, folders, glob patterns with `*`, `?` or `[...]`, and addresses, which are downloaded.
        recursive: whether sub-folders are searched.
        exclude: folder that is not searched, such as the output folder.

    Raises:
        UserError: no input has images; with the reason for each.
    """
    found = FoundImages()
    for typed in map(str, inputs):
        place = Path(typed).expanduser()
        if "://" in typed:
            _add_address(found, typed)
        elif place.is_dir():
            _add_folder(found, place, recursive=recursive, exclude=exclude)
        elif place.is_file():
            found.output_names.setdefault(place, Path(place.stem))
        elif _is_pattern(typed):
            _add_pattern(found, place, recursive=recursive, exclude=exclude)
        else:
            found.problems.append(_missing(place))
    if not found.output_names:
        problems = found.problems or ["no file or folder is given."]
        gap = "\n  " if len(problems) > 1 else " "
        raise UserError("no images to predict on:" + "".join(gap + problem for problem in problems))
    return found


def is_address(text: str) -> bool:
    """Whether a text is a web address.

    Args:
        text: as given.
    """
    return text.lower().startswith(WEB_PREFIXES)


def download_image(address: str) -> Path:
    """The file of an image on the web; it stays in the cache of downloads.

    Args:
        address: https://... or http://...

    Raises:
        UserError: a failed download, or no image at the address.
    """
    if not is_address(address):
        raise UserError(f"{address}: the address of an image starts with {' or '.join(WEB_PREFIXES)}.")
    scheme, _, rest = address.partition("://")
    path = local_path(f"{scheme.lower()}://{rest}")
    try:
        image_file_size(path)
    except UserError as error:
        forget_download(path)
        raise UserError(f"{address}: {error}") from error
    return path


def _is_pattern(text: str) -> bool:
    return any(sign in text for sign in PATTERN_CHARACTERS)


def _add_address(found: FoundImages, address: str) -> None:
    try:
        path = download_image(address)
    except UserError as error:
        found.problems.append(str(error))
        return
    found.output_names.setdefault(path, Path(path.stem))


def _add_folder(found: FoundImages, folder: Path, *, recursive: bool, exclude: Path | None) -> None:
    images = _images_in(folder, recursive=recursive, exclude=exclude)
    links = _images_in(folder, recursive=recursive, exclude=exclude, is_kind=_is_broken_link)
    found.problems += [f"{path} is a link to {os.readlink(path)}, which is missing." for path in links]
    if not images and not links:
        found.problems.append(_no_images(folder, recursive=recursive, exclude=exclude))
    for path in images:
        found.output_names.setdefault(path, path.relative_to(folder).with_suffix(""))


def _add_pattern(found: FoundImages, pattern: Path, *, recursive: bool, exclude: Path | None) -> None:
    matches = sorted(map(Path, glob.glob(str(pattern), recursive=True)))
    if not matches:
        found.problems.append(f"the pattern {pattern} matches nothing.")
        return
    images = [path for path in matches if path.is_file() and path.suffix.lower() in IMAGE_SUFFIXES]
    outside = [path for path in images if exclude is None or exclude.resolve() not in path.resolve().parents]
    images = outside or images  # pictures of an earlier run are not predicted on, unless the pattern names them alone
    folders = [path for path in matches if path.is_dir()]
    for path in images:
        found.output_names.setdefault(path, Path(path.stem))
    for folder in folders if recursive or not images else ():
        _add_folder(found, folder, recursive=recursive, exclude=exclude)
    if not images and not folders:
        found.problems.append(
            f"the pattern {pattern} matches {counted(len(matches), 'file')}, but no image: {matches[0].name}"
            f"{', ...' if len(matches) > 1 else ''}. Images end in {', '.join(IMAGE_SUFFIXES)}."
        )


def _images_in(
    folder: Path, *, recursive: bool, exclude: Path | None, is_kind: Callable[[Path], bool] = Path.is_file
) -> list[Path]:
    candidates = folder.rglob("*") if recursive else folder.iterdir()
    excluded = None if exclude is None or exclude.resolve() == folder.resolve() else exclude.resolve()
    return sorted(
        path
        for path in candidates
        if path.suffix.lower() in IMAGE_SUFFIXES
        and not path.name.startswith(".")  # macOS writes "._photo.jpg" beside photo.jpg on other file systems
        and is_kind(path)
        and (excluded is None or excluded not in path.resolve().parents)
    )


def _is_broken_link(path: Path) -> bool:
    return path.is_symlink() and not path.exists()


def _no_images(folder: Path, *, recursive: bool, exclude: Path | None) -> str:
    if not recursive:
        below = len(_images_in(folder, recursive=True, exclude=exclude))
        if below:
            return (
                f"{folder} has no image directly in it, but {below:,} in its sub-folders: add --recursive, or give the "
                f"pattern {folder}/**/*."
            )
    suffixes = Counter(path.suffix or "no suffix" for path in folder.rglob("*") if path.is_file())
    if not suffixes:
        return f"{folder} is empty."
    kinds = ", ".join(f"{count:,} x {suffix}" for suffix, count in suffixes.most_common(3))
    return f"{folder} has no image, only other files ({kinds}). Images end in {', '.join(IMAGE_SUFFIXES)}."


def _missing(place: Path) -> str:
    if str(place.parent) not in (".", "") and not place.parent.is_dir():
        missing = next(path for path in reversed((place, *place.parents)) if not path.exists())
        return f"{place} does not exist: there is no {missing}."
    what = "image file" if place.suffix.lower() in IMAGE_SUFFIXES else "file or folder"
    return f"{place}: there is no such {what}."


@dataclass(frozen=True, repr=False)
class LoadedImage:
    """An image source in memory."""

    name: str
    pixels: NDArray[np.generic]  # (H, W, C) RGB

    def __repr__(self) -> str:
        return summary(self)

    def read(self) -> NDArray[np.generic]:
        """The pixels."""
        return self.pixels


def names_several(image: ImageInput, *, pages_are_images: bool) -> bool:
    """Whether an input may be several images: a folder, a glob pattern, or the pages of a TIFF.

    Args:
        image: one input.
        pages_are_images: INPUT.PAGES.
    """
    if not isinstance(image, str | Path) or is_address(str(image)):
        return False
    path = Path(image).expanduser()
    if path.is_file():
        return len(_sources_in(str(path), pages_are_images)) > 1
    return bool(str(image)) and (path.is_dir() or _is_pattern(str(image)))


def sources_of(
    images: Iterable[ImageInput], *, pages_are_images: bool = False, keeps_alpha: bool = False, is_bgr: bool = False
) -> Iterator[ImageSource]:
    """The sources of images of any kind, each made when it is needed.

    Args:
        images: a folder or pattern gives its images.
        pages_are_images: INPUT.PAGES: whether each page of a TIFF is an image.
        keeps_alpha: whether alpha stays a channel.
        is_bgr: whether the channels of arrays and tensors are blue, green, red.

    Raises:
        UserError: no image, no file of a folder, or a failed download.
    """
    number = 0
    for image in images:
        for item in _items_of(image, pages_are_images):
            number += 1
            yield _source_of(item, f"image {number}", keeps_alpha=keeps_alpha, is_bgr=is_bgr)


def _items_of(image: ImageInput, pages_are_images: bool) -> Iterable[ImageInput]:
    """The images of a file, folder, pattern or address; other inputs themselves."""
    if not isinstance(image, str | Path) or not str(image):
        return [image]
    if "://" in str(image):
        files = [download_image(str(image))]
    elif names_several(image, pages_are_images=False):
        found = find_images([image])
        if found.problems:
            raise UserError(" ".join(found.problems))
        files = found.files
    else:
        files = [Path(image).expanduser()]
    return chain.from_iterable(_sources_in(str(file), pages_are_images) for file in files)


def _source_of(image: ImageInput, name: str, *, keeps_alpha: bool, is_bgr: bool) -> ImageSource:
    if isinstance(image, str | Path):
        raise UserError(f"{name} is {str(image)!r}: give the path of an image file.")
    if isinstance(image, Tensor):
        image = array_of_tensor(image, name)
    if isinstance(image, np.ndarray):
        pixels = image if keeps_alpha else _without_alpha(image)
        return LoadedImage(name, _as_rgb(pixels) if is_bgr else pixels)
    if isinstance(image, Image.Image):
        name = str(getattr(image, "filename", "") or name)
        try:
            return LoadedImage(name, decode_with_alpha(image) if keeps_alpha else decode(image))
        except DECODING_ERRORS as error:
            raise cannot_decode(name, error) from error
    if hasattr(image, "read") and hasattr(image, "name") and not isinstance(image, io.IOBase):
        return image
    raise UserError(
        f"{name} has the type {type(image).__name__}: give a path, a folder, an address, a NumPy array (height, width, "
        "channels), a tensor (channels, height, width), a Pillow image or a list of these."
    )


def _as_rgb(array: NDArray[np.generic]) -> NDArray[np.generic]:
    """Blue, green, red as red, green, blue; alpha stays the last channel."""
    if array.ndim != 3 or array.shape[2] not in COLOUR_CHANNELS:
        return array
    return np.concatenate((array[..., 2::-1], array[..., 3:]), axis=2)


def _without_alpha(array: NDArray[np.generic]) -> NDArray[np.generic]:
    """(H, W, 2) grey with alpha -> (H, W), RGBA -> (H, W, 3), as files are read; other arrays unchanged."""
    if array.ndim != 3 or array.shape[2] not in CHANNELS_WITH_ALPHA:
        return array
    return array[..., 0] if array.shape[2] == GREY_WITH_ALPHA else array[..., :-1]

"""Which image files are meant by files, folders and patterns that were typed, and which picture each of them gets."""

import glob
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from mrcnn_zoo.data.images.arrays import ARRAY_SUFFIXES
from mrcnn_zoo.errors import UserError, counted

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp", ".avif", ".jp2", ".gif", ".tga"),
    *(".ppm", ".pgm", ".pbm", ".pnm", *ARRAY_SUFFIXES),
)
PATTERN_SIGNS = "*?["


@dataclass
class FoundImages:
    """The image files of some inputs."""

    places: dict[Path, Path] = field(default_factory=dict)  # file -> its path below the input, without suffix
    problems: list[str] = field(default_factory=list)  # a message for every input that gave no image

    @property
    def files(self) -> list[Path]:
        """The files in their order, none twice."""
        return list(self.places)


def image_files(inputs: Iterable[str | Path]) -> list[Path]:
    """The files themselves, and the images directly in the folders, sorted; no file twice.

    Raises:
        UserError: none of it is there, or a file is missing.
    """
    found = find_images(inputs)
    if found.problems:
        raise UserError(" ".join(found.problems))
    return found.files


def find_images(inputs: Iterable[str | Path], *, recursive: bool = False, besides: Path | None = None) -> FoundImages:
    """The image files that are meant.

    Args:
        inputs: files, folders, and patterns with `*`, `?` or `[...]` that no shell has expanded.
        recursive: whether images in the folders of folders count.
        besides: a folder whose files do not count where a folder is searched, such as that of the results.

    Raises:
        UserError: there is no image at all, with the reason for each input.
    """
    found = FoundImages()
    for typed in map(str, inputs):
        place = Path(typed).expanduser()
        if place.is_dir():
            _add_folder(found, place, recursive=recursive, besides=besides)
        elif place.is_file():
            found.places.setdefault(place, Path(place.stem))
        elif any(sign in typed for sign in PATTERN_SIGNS):
            _add_pattern(found, place, recursive=recursive, besides=besides)
        else:
            found.problems.append(_missing(place))
    if not found.places:
        problems = found.problems or ["no file and no folder is named."]
        gap = "\n  " if len(problems) > 1 else " "
        raise UserError("no images to predict on:" + "".join(gap + problem for problem in problems))
    return found


def _add_folder(found: FoundImages, folder: Path, *, recursive: bool, besides: Path | None) -> None:
    images = _images_in(folder, recursive=recursive, besides=besides)
    if not images:
        found.problems.append(_no_images(folder, recursive=recursive, besides=besides))
    for path in images:
        found.places.setdefault(path, path.relative_to(folder).with_suffix(""))


def _add_pattern(found: FoundImages, pattern: Path, *, recursive: bool, besides: Path | None) -> None:
    matches = sorted(map(Path, glob.glob(str(pattern), recursive=True)))
    if not matches:
        found.problems.append(f"the pattern {pattern} matches nothing.")
        return
    images = [path for path in matches if path.is_file() and path.suffix.lower() in IMAGE_SUFFIXES]
    folders = [path for path in matches if path.is_dir()]
    for path in images:
        found.places.setdefault(path, Path(path.stem))
    for folder in folders if recursive or not images else ():
        _add_folder(found, folder, recursive=recursive, besides=besides)
    if not images and not folders:
        found.problems.append(
            f"the pattern {pattern} matches {counted(len(matches), 'file')}, but no image: {matches[0].name}"
            f"{', ...' if len(matches) > 1 else ''}. Images end in {', '.join(IMAGE_SUFFIXES)}."
        )


def _images_in(folder: Path, *, recursive: bool, besides: Path | None) -> list[Path]:
    candidates = folder.rglob("*") if recursive else folder.iterdir()
    excluded = None if besides is None or besides.resolve() == folder.resolve() else besides.resolve()
    return sorted(
        path
        for path in candidates
        if path.suffix.lower() in IMAGE_SUFFIXES
        and not path.name.startswith(".")  # macOS keeps "._photo.jpg" beside photo.jpg on foreign disks
        and path.is_file()
        and (excluded is None or excluded not in path.resolve().parents)
    )


def _no_images(folder: Path, *, recursive: bool, besides: Path | None) -> str:
    if not recursive:
        below = len(_images_in(folder, recursive=True, besides=besides))
        if below:
            return f"{folder} has no image directly in it, but {below:,} in its sub-folders: add --recursive."
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


def picture_paths(found: FoundImages, output: Path) -> list[Path]:
    """Where the picture of each file goes: `output`, in the same sub-folders, as PNG.

    Raises:
        UserError: a picture would overwrite one of the images.
    """
    originals = {file.resolve() for file in found.files}
    taken = set(originals)
    paths: list[Path] = []
    for place in found.places.values():
        path = output / f"{place}.png"
        if path.resolve() in originals:
            raise UserError(f"--output {output} holds the images themselves, and {path} would be overwritten.")
        number = 1
        while path.resolve() in taken:  # images of one name from several folders
            number += 1
            path = output / f"{place}_{number}.png"
        taken.add(path.resolve())
        paths.append(path)
    return paths

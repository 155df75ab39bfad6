"""Image files named by files, folders and glob patterns, and the paths of their pictures."""

import glob
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mrcnn_zoo.data.images.reading import IMAGE_SUFFIXES, FileImage
from mrcnn_zoo.data.images.stacks import StackPage, pages_of
from mrcnn_zoo.errors import UserError, counted

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
            for source in _pages_of(str(file)) if self.pages_are_images else [FileImage(str(file))]:
                found.append((source, place.with_name(source.stem) if isinstance(source, StackPage) else place))
        return found


def _pages_of(file: str) -> Sequence[FileImage | StackPage]:
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
        inputs: files, folders, and glob patterns with `*`, `?` or `[...]`.
        recursive: whether sub-folders are searched.
        exclude: folder that is not searched, such as the output folder.

    Raises:
        UserError: no input has images; with the reason for each.
    """
    found = FoundImages()
    for typed in map(str, inputs):
        place = Path(typed).expanduser()
        if place.is_dir():
            _add_folder(found, place, recursive=recursive, exclude=exclude)
        elif place.is_file():
            found.output_names.setdefault(place, Path(place.stem))
        elif any(sign in typed for sign in PATTERN_CHARACTERS):
            _add_pattern(found, place, recursive=recursive, exclude=exclude)
        else:
            found.problems.append(_missing(place))
    if not found.output_names:
        problems = found.problems or ["no file or folder is given."]
        gap = "\n  " if len(problems) > 1 else " "
        raise UserError("no images to predict on:" + "".join(gap + problem for problem in problems))
    return found


def _add_folder(found: FoundImages, folder: Path, *, recursive: bool, exclude: Path | None) -> None:
    images = _images_in(folder, recursive=recursive, exclude=exclude)
    if not images:
        found.problems.append(_no_images(folder, recursive=recursive, exclude=exclude))
    for path in images:
        found.output_names.setdefault(path, path.relative_to(folder).with_suffix(""))


def _add_pattern(found: FoundImages, pattern: Path, *, recursive: bool, exclude: Path | None) -> None:
    matches = sorted(map(Path, glob.glob(str(pattern), recursive=True)))
    if not matches:
        found.problems.append(f"the pattern {pattern} matches nothing.")
        return
    images = [path for path in matches if path.is_file() and path.suffix.lower() in IMAGE_SUFFIXES]
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


def _images_in(folder: Path, *, recursive: bool, exclude: Path | None) -> list[Path]:
    candidates = folder.rglob("*") if recursive else folder.iterdir()
    excluded = None if exclude is None or exclude.resolve() == folder.resolve() else exclude.resolve()
    return sorted(
        path
        for path in candidates
        if path.suffix.lower() in IMAGE_SUFFIXES
        and not path.name.startswith(".")  # macOS writes "._photo.jpg" beside photo.jpg on other file systems
        and path.is_file()
        and (excluded is None or excluded not in path.resolve().parents)
    )


def _no_images(folder: Path, *, recursive: bool, exclude: Path | None) -> str:
    if not recursive:
        below = len(_images_in(folder, recursive=True, exclude=exclude))
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
    """Paths of the pictures, one per image: PNG files in the same sub-folders as the images, numbered if equal.

    Args:
        found: the image files.
        output: folder of the pictures.

    Raises:
        UserError: a picture would overwrite one of the images.
    """
    originals = {file.resolve() for file in found.files}
    taken = set(originals)
    paths: list[Path] = []
    for _, place in found.sources():
        path = output / f"{place}.png"
        if path.resolve() in originals:
            raise UserError(
                f"--output {output} contains the images, and {path} would be overwritten. Name another folder."
            )
        number = 1
        while path.resolve() in taken:  # images of the same name in several folders
            number += 1
            path = output / f"{place}_{number}.png"
        taken.add(path.resolve())
        paths.append(path)
    return paths

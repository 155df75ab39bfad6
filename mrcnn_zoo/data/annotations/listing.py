"""The files of a dataset folder, listed once, and the image files that annotations name."""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any

from mrcnn_zoo.data.images.reading import IMAGE_SUFFIXES
from mrcnn_zoo.data.paths import EXAMPLES_SHOWN
from mrcnn_zoo.errors import UserError, counted

MAX_FILES = 5_000_000
SUFFIXES_SHOWN = 6
START_OF_FILE = 4096  # bytes
IGNORED_FOLDERS = ("__MACOSX",)
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training", "trainval"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def split_of(name: str) -> str:
    """The side that the name of a folder or file means: "train", "val" or "test"; "" for none.

    >>> split_of("valid"), split_of("Train2017"), split_of("images")
    ('val', 'train', '')

    Args:
        name: a folder's, or a file's without its ending.
    """
    return SPLIT_NAMES.get(name.lower().rstrip("0123456789"), "")


def side_of_folders(name: str) -> str:
    """The side that a folder in the path of a file means: the nearest one to the file; "" for none.

    >>> side_of_folders("labels/train/city/1.json")
    'train'

    Args:
        name: path of the file, relative to the root of the dataset.
    """
    return next((side for part in reversed(name.split("/")[:-1]) if (side := split_of(part))), "")


class FileListing:
    """The files below a folder; of a single file, its folder's files.

    Args:
        path: a folder or a file that exists.

    Raises:
        UserError: a folder with too many files.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.root = path if path.is_dir() else path.parent
        self.file = "" if path.is_dir() else path.name  # the single annotation file that was named
        self._content: dict[str, Any] = {}

    @cached_property
    def stats(self) -> dict[str, tuple[int, int]]:
        """(bytes, modification time) of each file by its path relative to the root, with slashes, sorted.

        Hidden files and folders are left out.
        """
        found: dict[str, tuple[int, int]] = {}
        folders = [""]
        while folders:
            folder = folders.pop()
            try:
                with os.scandir(self.root / folder) as entries:
                    for entry in entries:
                        if entry.name.startswith(".") or entry.name in IGNORED_FOLDERS:
                            continue
                        name = f"{folder}/{entry.name}" if folder else entry.name
                        if entry.is_dir():
                            folders.append(name)
                        elif entry.is_file():
                            stat = entry.stat()
                            found[name] = (stat.st_size, stat.st_mtime_ns)
            except OSError as error:
                raise UserError(f"{self.root / folder} cannot be listed: {error.strerror}.") from error
            if len(found) > MAX_FILES:
                raise UserError(
                    f"{self.root} has more than {MAX_FILES:,} files; name the folder of the dataset itself."
                )
        return dict(sorted(found.items()))

    @cached_property
    def files(self) -> tuple[str, ...]:
        """The paths of `stats`."""
        return tuple(self.stats)

    @cached_property
    def images(self) -> tuple[str, ...]:
        """The image files, by their endings."""
        return self.with_suffix(*IMAGE_SUFFIXES)

    def with_suffix(self, *suffixes: str) -> tuple[str, ...]:
        """The files with one of the endings, upper or lower case; only the single file where one was named.

        Args:
            suffixes: with their dots, lower case.
        """
        is_annotation = not any(suffix in IMAGE_SUFFIXES for suffix in suffixes)
        if self.file and is_annotation:
            return (self.file,) if self.file.lower().endswith(suffixes) else ()
        found = [self._by_suffix[suffix] for suffix in suffixes if suffix in self._by_suffix]
        return tuple(sorted(chain.from_iterable(found)) if len(found) > 1 else chain.from_iterable(found))

    @cached_property
    def _by_suffix(self) -> dict[str, list[str]]:
        """The files by their endings with the dot, lower case: each format looks for its own among 100,000 files."""
        found: dict[str, list[str]] = {}
        for name in self.files:
            found.setdefault(f".{name.rpartition('.')[2].lower()}", []).append(name)
        return found

    def head(self, name: str, size: int = START_OF_FILE) -> str:
        """The first characters of a text file; "" if it cannot be read.

        Args:
            name: relative to the root.
            size: in bytes.
        """
        try:
            with (self.root / name).open("rb") as file:
                start = file.read(size)
        except OSError:
            return ""
        encoding = json.detect_encoding(start[:4]) if start[:4] else "utf-8"
        return start.decode(encoding, errors="replace").lstrip("\ufeff")

    def tail(self, name: str, size: int = START_OF_FILE) -> str:
        """The last characters of a text file; "" if it cannot be read.

        Args:
            name: relative to the root.
            size: in bytes.
        """
        try:
            with (self.root / name).open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - size))
                return file.read(size).decode("utf-8", errors="replace")
        except OSError:
            return ""

    def json(self, name: str) -> Any:
        """The content of a JSON file, parsed once; None if it is not JSON.

        Args:
            name: relative to the root.
        """
        if name not in self._content:
            try:
                self._content[name] = json.loads((self.root / name).read_bytes())
            except (OSError, ValueError, RecursionError):
                self._content[name] = None
        return self._content[name]

    def content(self) -> str:
        """The number of files by their endings, for messages: "12 x .png, 1 x .json"."""
        counts = Counter(PurePosixPath(name).suffix.lower() or "no ending" for name in self.files)
        return ", ".join(f"{count} x {suffix}" for suffix, count in counts.most_common(SUFFIXES_SHOWN)) or "no files"

    def fingerprint(self, names: Sequence[str]) -> list[str]:
        """A line per file that changes with its name, size or time; for `cache_key`.

        Args:
            names: relative to the root.
        """
        return [f"{name}:{self.stats[name][0]}:{self.stats[name][1]}" for name in names]


class ImageFinder:
    """Finds the image files that annotations name: by path, else by file name, else by the name without its ending.

    Args:
        listing: of the folder with the images.
    """

    def __init__(self, listing: FileListing) -> None:
        self.root = listing.root
        self.paths = frozenset(listing.images)
        self._missing: list[tuple[str, str]] = []

    @cached_property
    def _by_name(self) -> dict[str, list[PurePosixPath]]:
        return _grouped(self.paths, lambda path: path.name)

    @cached_property
    def _by_stem(self) -> dict[str, list[PurePosixPath]]:
        return _grouped(self.paths, lambda path: path.stem)

    def find(self, name: str, *, near: str = "") -> str:
        """The path of an image relative to the root; "" if there is none or several have this name.

        Of several with this name, the one in the folder `near` is found, or the one whose path has more folder names
        in common with it: images/train/1.png for labels/train.

        Args:
            name: as in the annotation file; a path with slashes or backslashes, or a name.
            near: folder of the annotation file, relative to the root, which is searched first.
        """
        path = name.replace("\\", "/").removeprefix("./")
        for candidate in (f"{near}/{path}" if near else path, path):
            normal = os.path.normpath(candidate).replace(os.sep, "/")
            if normal in self.paths:
                return normal
            if normal.startswith(("../", "/")) and (self.root / normal).is_file():
                inside = os.path.relpath(self.root / normal, self.root).replace(os.sep, "/")
                return inside if inside in self.paths else normal
        pure = PurePosixPath(path)
        return _nearest(self._by_name.get(pure.name, ()), near) or _nearest(self._by_stem.get(pure.stem, ()), near)

    def require(self, name: str, *, near: str = "", listed_in: str) -> str:
        """As `find`; a missing image is remembered for `check`.

        Args:
            name: see `find`.
            near: see `find`.
            listed_in: the annotation file, for the message.
        """
        found = self.find(name, near=near)
        if not found:
            self._missing.append((name, listed_in))
        return found

    def check(self) -> None:
        """Refuse annotations whose images were not found.

        Raises:
            UserError: with the first three names and their annotation files.
        """
        if not self._missing:
            return
        shown = ", ".join(f"{name} ({listed_in})" for name, listed_in in self._missing[:EXAMPLES_SHOWN])
        more = ", ..." if len(self._missing) > EXAMPLES_SHOWN else ""
        raise UserError(
            f"{self.root}: {counted(len(self._missing), 'image')} that annotations name are missing, or several files "
            f"have the name: {shown}{more}. Copy them there, name their folder as IMAGES, or remove the annotations."
        )


def _grouped(paths: Iterable[str], key: Callable[[PurePosixPath], str]) -> dict[str, list[PurePosixPath]]:
    found: dict[str, list[PurePosixPath]] = {}
    for path in map(PurePosixPath, paths):
        found.setdefault(key(path), []).append(path)
    return found


def _nearest(paths: Sequence[PurePosixPath], near: str) -> str:
    """The only path, or the one that is nearer to a folder than all others; "" if there is none."""
    if len(paths) > 1:
        folder = PurePosixPath(near)
        ranks = [(path.parent == folder, len({*path.parent.parts} & {*folder.parts})) for path in paths]
        paths = [path for path, rank in zip(paths, ranks, strict=True) if rank == max(ranks)]
    return str(paths[0]) if len(paths) == 1 else ""

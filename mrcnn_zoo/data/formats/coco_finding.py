"""The COCO files of a folder by side, and the folders of their images."""

import mmap
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from mrcnn_zoo.data.annotations.listing import FileListing, split_of
from mrcnn_zoo.data.classes import listed
from mrcnn_zoo.data.formats.coco_json import CocoJson
from mrcnn_zoo.errors import UserError

SECTION = re.compile(rb'"(images|annotations|categories)"\s*:\s*\[')
RESULTS_FILE = re.compile(r'\s*\[\s*\{[^}]*"image_id"')
CAPTION = '"caption"'
NEEDED_SECTIONS = {b"images", b"categories"}
PART_EXAMINED = 1 << 16  # bytes at the start and the end of a file
FILES_EXAMINED = 200
IMAGES_TRIED = 3
FOLDER_NAMES = {
    "train": ("train",),
    "val": ("val", "valid", "validation"),
    "test": ("test",),
}  # of the images of a side
# Names of files in COCO's annotations/ begin so; the last is for images without labels.
INSTANCES, KEYPOINTS, UNLABELLED = "instances_", "person_keypoints_", "image_info_"
SUBSET = re.compile(r"(.+)[-_](small|mini|tiny|sample|subset|debug)")  # of the file of the first group


def find_coco_files(listing: FileListing) -> dict[str, list[Path]]:
    """The COCO files by side, "" where their names and folders mean none; empty if there is none.

    A folder of images such as `val2017` has those of `../annotations`.

    Args:
        listing: of a folder or a file.
    """
    if listing.file:
        is_json = listing.file.lower().endswith(".json")
        is_coco = is_json and (_is_coco(listing, listing.file) or _is_refused_by_reader(listing))
        return {"": [listing.path]} if is_coco else {}
    files: dict[str, list[Path]] = {}
    for name in _examined(listing):
        if _is_coco(listing, name):
            files.setdefault(side_of(name), []).append(listing.root / name)
    if any(files):
        files.pop("", None)
    if not files:
        beside = [path for path in _beside(listing.root) if path.is_file()]
        files = {"": beside} if beside else {}
    return {side: _without_subsets(paths) for side, paths in files.items()}


def _examined(listing: FileListing) -> list[str]:
    """JSON files that may be COCO's: those nearest to the root; a file per image is another format's."""
    names = sorted(listing.with_suffix(".json"), key=lambda name: (name.count("/"), name))
    return names[:FILES_EXAMINED]


def _is_coco(listing: FileListing, name: str) -> bool:
    """Whether a JSON file has images and categories, from its start and end.

    All of a large file is searched where these have one section, as LVIS's, whose categories are longer than the end.
    """
    ends = listing.head(name, PART_EXAMINED) + "\0" + listing.tail(name, PART_EXAMINED)
    sections = set(SECTION.findall(ends.encode()))
    if not sections or sections >= NEEDED_SECTIONS:
        return bool(sections)
    path = listing.root / name
    if path.stat().st_size <= PART_EXAMINED:
        return False
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            for match in SECTION.finditer(content):
                sections.add(match[1])
                if sections >= NEEDED_SECTIONS:
                    return True
    except OSError:
        return False
    return False


def _is_refused_by_reader(listing: FileListing) -> bool:
    """Whether a named file is COCO's results or captions: the reader's messages about these are precise."""
    start, end = (part(listing.file, PART_EXAMINED) for part in (listing.head, listing.tail))
    return bool(RESULTS_FILE.match(start)) or (CAPTION in end and bool(SECTION.search(start.encode())))


def side_of(name: str) -> str:
    """The side of a COCO file: from its name, else from its folders, the nearest first; "" for none.

    >>> side_of("annotations/instances_val2017.json"), side_of("valid/_annotations.coco.json"), side_of("a.json")
    ('val', 'val', '')

    Args:
        name: relative to the folder of the dataset.
    """
    path = PurePosixPath(name)
    parts = [*re.split(r"[_\-. ]+", path.stem), *reversed(path.parent.parts)]
    return next((side for part in parts if (side := split_of(part))), "")


def _beside(folder: Path) -> list[Path]:
    return [
        folder.parent / "annotations" / f"{start}{folder.name}.json" for start in (INSTANCES, KEYPOINTS, "", UNLABELLED)
    ]


def _without_subsets(paths: Sequence[Path]) -> list[Path]:
    """Without files such as `annotation-small.json` beside `annotation.json`, as in the crowdAI mapping challenge."""
    is_subset = [(match := SUBSET.fullmatch(path.stem)) and path.with_stem(match[1]) in paths for path in paths]
    return [path for path, is_part in zip(paths, is_subset, strict=True) if not is_part]


def choose_file(paths: Sequence[Path], *, dataset: str, needs_keypoints: bool) -> Path:
    """The file to read of several of one side: COCO has one for objects, one for persons with keypoints and others.

    Args:
        paths: at least one.
        dataset: its name, for messages.
        needs_keypoints: whether the file with keypoints is preferred.

    Raises:
        UserError: several files that could be meant.
    """
    preferred = (KEYPOINTS, INSTANCES) if needs_keypoints else (INSTANCES,)
    for start in preferred:
        found = [path for path in paths if path.name.startswith(start)]
        if len(found) == 1:
            return found[0]
    special = (KEYPOINTS, UNLABELLED, "panoptic_", "stuff_", "captions_")
    others = [path for path in paths if not path.name.startswith(special)] or list(paths)
    if len(others) == 1:
        return others[0]
    raise UserError(
        f"dataset {dataset!r}: there are several COCO files ({listed([str(path) for path in others])}); name the one "
        "to read as ANNOTATIONS in the definition of the dataset, or as DATASETS.TRAIN."
    )


def image_folders(root: Path, annotation_file: Path, side: str) -> list[Path]:
    """Folders where the images of a COCO file may be: those that tools write, the most likely first.

    Args:
        root: of the dataset.
        annotation_file: in the root or below it.
        side: "train", "val", "test" or "".
    """
    parent = annotation_file.parent
    tokens = re.split(r"[_\-. ]+", annotation_file.stem)
    names = [token for token in tokens if split_of(token)] + [annotation_file.stem.rpartition("_")[2]]
    names += [annotation_file.stem, *FOLDER_NAMES.get(side or side_of(annotation_file.name), ())]
    bases = list(dict.fromkeys((parent, root, parent.parent)))
    folders = [base / part for base in bases for part in ("", "images")]
    for base in bases:
        for name in names:
            folders += [base / name, base / "images" / name, base / name / "images", base / f"{name}_images"]
    return list(dict.fromkeys(folder for folder in folders if folder.is_dir()))


def folder_with_images(folders: Path | Sequence[Path] | None, document: CocoJson) -> Path | None:
    """The folder that has the first images of a file, of several; the first one if none has any.

    Args:
        folders: candidates; a single one, or None, is returned.
        document: the file.
    """
    if folders is None or isinstance(folders, Path):
        return folders
    names = [name for image in document.images[:IMAGES_TRIED] if (name := _name_of(image))]
    counts = [sum((folder / name).is_file() for name in names) for folder in folders]
    return folders[counts.index(max(counts))]


def _name_of(image: dict[str, object]) -> str:
    """The name of an image file; LVIS has addresses instead, see `read_images`."""
    name = image.get("file_name") or "/".join(str(image.get("coco_url", "")).split("/")[-2:])
    return name if isinstance(name, str) else ""

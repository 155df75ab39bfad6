"""Tables of run lengths as in Kaggle's competitions: a row per object with an image and the runs of its mask."""

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from mrcnn_zoo.data.annotations.contract import AnnotationFormat, Annotations, Found, ReadOptions
from mrcnn_zoo.data.annotations.listing import FileListing, ImageFinder, split_of
from mrcnn_zoo.data.annotations.loading import annotation_format
from mrcnn_zoo.data.annotations.objects import AnnotatedImage, AnnotatedObject
from mrcnn_zoo.data.annotations.writing import DatasetWriter
from mrcnn_zoo.data.classes import listed
from mrcnn_zoo.data.images.reading import FileImage
from mrcnn_zoo.data.paths import image_file_size
from mrcnn_zoo.data.records import Dataset, RepairLog
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.ops import rle
from mrcnn_zoo.ops.rle import Rle
from mrcnn_zoo.structures import ImageSize

IMAGE_COLUMNS = ("imageid", "image_id", "id", "img", "image", "filename", "file_name")
JOINED_COLUMNS = ("imageid_classid", "image_label")  # image and class in one, "a.jpg_1"
CLASS_COLUMNS = ("classid", "class_id", "class", "label", "category_id", "cell_type")
RUN_COLUMNS = ("encodedpixels", "rle_mask", "rle", "encoding")
NO_RUNS = ("", "-1", "nan")
CLASS_NAME = "object"  # of tables without a column of classes
CLASS_FILE = "label_descriptions.json"  # of iMaterialist: names by ClassId
MAX_FIELD = 1 << 30  # characters of a mask


@dataclass(frozen=True)
class Columns:
    """The columns of a table.

    Args:
        image: of the image's name.
        runs: of the run lengths.
        names: of all columns, as in the file.
        classes: of the class; "" for none.
        has_joined_names: whether the name of the image ends with the class.
        is_by_rows: whether pixels are numbered along the rows instead of the columns.
    """

    image: str
    runs: str
    names: tuple[str, ...]
    classes: str = ""
    has_joined_names: bool = False
    is_by_rows: bool = False


@annotation_format("rle_csv")
class RleCsvFormat(AnnotationFormat):
    """Pairs of start and length, counted from 1 down the columns, as in DSB2018, Severstal, Airbus and iMaterialist."""

    finds_images_elsewhere = False
    title = "CSV table of run lengths"
    looked_for = "a .csv table with the columns ImageId and EncodedPixels"

    def find(self, listing: FileListing) -> Found | None:
        """Tables by side, from the parts of their names. Tables beside the same masks as files are not needed."""
        files: dict[str, list[str]] = {}
        for name in listing.with_suffix(".csv"):
            is_sample = PurePosixPath(name).stem.startswith("sample_submission")
            if _columns_of(listing.head(name)) is not None and (listing.file or not is_sample):
                files.setdefault(_side_of(name), []).append(name)
        if any(files) and not listing.file:
            files.pop("", None)
        has_masks = any("/masks/" in name for name in listing.images)
        if not files or (has_masks and not listing.file):
            return None
        splits = {side: tuple(names) for side, names in files.items()}
        return Found(listing, splits, listed([name for names in splits.values() for name in names]))

    def read_images(self, found: Found, options: ReadOptions) -> Annotations:
        """An image whose only row is empty has no objects; images without a row are left out."""
        repairs = RepairLog("object")
        images_at: FileListing = options.images or found.listing
        finder = ImageFinder(images_at)
        names = _class_names(found.listing)
        images, classes = [], set()
        with _long_fields():
            for side, files in found.splits.items():
                if len(files) > 1:
                    raise UserError(
                        f"dataset {options.name!r}: there are several tables ({listed(list(files))}); name the one to "
                        "read as ANNOTATIONS in the definition of the dataset, or as DATASETS.TRAIN."
                    )
                for image in _Table(found.listing.root / files[0], names).images(finder, side):
                    images.append(image)
                    classes |= {item.class_name for item in image.objects}
        finder.check()
        used = {Path(image.source.name) for image in images}
        unused = [name for name in images_at.images if images_at.root / name not in used]
        repairs.add("images without a row left out", unused, name="image")
        return Annotations(images, sorted(classes, key=_by_number), repairs)

    def write(self, parts: Mapping[str, Dataset], folder: Path, writer: DatasetWriter) -> None:
        """`images/` and `masks.csv`, with sides `images/<side>/` and `<side>.csv`; ClassId has names of classes."""
        class_names = next(iter(parts.values())).class_names
        if len(class_names) == 1 and class_names != (CLASS_NAME,):
            writer.lost.add("names of the only class left out", class_names, name="class")
        for side, dataset in parts.items():
            rows = list(_rows_of(dataset, writer))
            has_classes = len(dataset.class_names) > 1
            for record in dataset.records:
                writer.place_image(record, folder / "images" / side)
            with (folder / f"{side or 'masks'}.csv").open("w", newline="", encoding="utf-8") as file:
                table = csv.writer(file, lineterminator="\n")
                header = ["ImageId", "EncodedPixels", "ClassId"]
                table.writerows(row if has_classes else row[:2] for row in [header, *rows])


class _Table:
    """One table.

    Args:
        path: of the file.
        names: of the classes by their numbers, if a file has them.
    """

    def __init__(self, path: Path, names: Mapping[str, str]) -> None:
        self.path = path
        self.names = names

    def images(self, finder: ImageFinder, side: str) -> Iterator[AnnotatedImage]:
        """The images in the order of their first rows."""
        rows_of: dict[str, list[tuple[int, dict[str, str]]]] = {}
        columns = None
        try:
            with self.path.open(newline="", encoding="utf-8-sig") as file:
                reader = csv.DictReader(file)
                columns = _columns_from(reader.fieldnames or ())
                for row in reader if columns else ():
                    name = self._image_name(row, columns, reader.line_num)  # type: ignore[arg-type]
                    rows_of.setdefault(name, []).append((reader.line_num, row))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"{self.path} cannot be read as a CSV table in UTF-8: {error}.") from error
        if columns is None:
            raise UserError(f"{self.path} is no table of run lengths: it needs the columns ImageId and EncodedPixels.")
        for name, rows in rows_of.items():
            image = finder.require(name, listed_in=str(self.path))
            if image:
                yield self._image_of(finder.root / image, rows, columns, side)

    def _image_name(self, row: Mapping[str, str], columns: Columns, line: int) -> str:
        name = (row[columns.image] or "").strip()
        name = name.rpartition("_")[0] if columns.has_joined_names else name
        if not name or row[columns.runs] is None:
            raise UserError(
                f"{self.path}, line {line} has {columns.image} = {row[columns.image]!r} and {columns.runs} = "
                f"{row[columns.runs]!r}. Each line needs the name of an image and a field of run lengths."
            )
        return name

    def _image_of(
        self, path: Path, rows: Sequence[tuple[int, dict[str, str]]], columns: Columns, side: str
    ) -> AnnotatedImage:
        size = image_file_size(path)
        objects = []
        for line, row in rows:
            self._check_size(row, columns, size, f"{self.path}, line {line}", path)
            text = row[columns.runs].strip()
            if text.lower() not in NO_RUNS:
                where = f"{self.path}, line {line}: {columns.runs}"
                mask = decode_runs(text, size, is_by_rows=columns.is_by_rows, where=where)
                objects.append(AnnotatedObject(self._class_of(row, columns, line), f"line {line}", mask))
        return AnnotatedImage(FileImage(str(path)), size, objects, str(self.path), side)

    def _check_size(self, row: Mapping[str, str], columns: Columns, size: ImageSize, where: str, path: Path) -> None:
        named = {name.strip().lower(): row[name] for name in columns.names}
        given = [(named.get(side) or "").strip() for side in ("height", "width")]
        if not all(given) or given == [str(side) for side in size]:
            return
        try:
            is_equal = [float(side) for side in given] == list(size)
        except ValueError:
            is_equal = False
        if not is_equal:
            raise UserError(
                f"{where} is for an image of {given[1]} x {given[0]} pixels (width x height), and {path} is {size[1]} "
                f"x {size[0]}. Use the images of the size that the table was made for."
            )

    def _class_of(self, row: Mapping[str, str], columns: Columns, line: int) -> str:
        if columns.has_joined_names:
            name = row[columns.image].strip().rpartition("_")[2]
        elif columns.classes:
            name = (row[columns.classes] or "").strip()
            has_attributes = re.fullmatch(r"\d+(_\d+)+", name)  # of iMaterialist
            name = name.split("_")[0] if has_attributes else name
        else:
            return CLASS_NAME
        if not name:
            raise UserError(f"{self.path}, line {line}: the class ({columns.classes}) of an object is missing. Add it.")
        return self.names.get(name, name)


def decode_runs(text: str, size: ImageSize, *, is_by_rows: bool, where: str) -> Rle | None:
    """The mask of pairs of start and length, as compressed run lengths; None if all lengths are 0.

    Args:
        text: "start length start length ...", starts from 1.
        size: (height, width) of the image.
        is_by_rows: whether pixels are numbered along the rows instead of down the columns.
        where: the place, for messages.

    Raises:
        UserError: text that is no pairs, starts that do not ascend, or runs beyond the image.
    """
    try:
        numbers = np.array(list(map(int, text.split())), dtype=np.int64)
    except (ValueError, OverflowError):
        numbers = np.zeros(1, dtype=np.int64)
    if len(numbers) % 2 or numbers.min(initial=0) < 0:
        short = text if len(text) < 40 else f"{text[:30]}..."
        raise UserError(f"{where} = {short!r} must be pairs of whole numbers: start and length. Correct the line.")
    starts, lengths = numbers[0::2][numbers[1::2] > 0] - 1, numbers[1::2][numbers[1::2] > 0]
    if not len(starts):
        return None
    ends, num_pixels = starts + lengths, size[0] * size[1]
    if starts[0] < 0 or (starts[1:] < ends[:-1]).any():
        raise UserError(
            f"{where}: the runs must start at 1 or above and ascend without overlaps. Starts relative to the run "
            "before, as in the SIIM competition, are not read: add them up."
        )
    if ends[-1] > num_pixels:
        raise UserError(
            f"{where}: a run ends at pixel {ends[-1]}, and the image of {size[1]} x {size[0]} pixels (width x height) "
            f"has {num_pixels}. Use the images of the size that the table was made for."
        )
    is_first = np.concatenate([[True], starts[1:] > ends[:-1]])  # runs that touch are one
    starts, ends = starts[is_first], ends[np.append(np.flatnonzero(is_first)[1:] - 1, len(ends) - 1)]
    edges = np.stack([starts, ends], axis=1).ravel()
    if not is_by_rows:
        runs = np.diff(edges, prepend=0, append=num_pixels)
        return rle.encode_runs([runs if runs[-1] else runs[:-1]], size)[0]
    changes = np.zeros(num_pixels + 1, dtype=np.int8)
    changes[edges[0::2]], changes[edges[1::2]] = 1, -1
    return rle.encode(np.cumsum(changes[:-1], dtype=np.int8).reshape(size))


def encode_runs(mask: Rle) -> str:
    """Pairs of start and length, counted from 1 down the columns.

    Args:
        mask: compressed run lengths.
    """
    edges = np.cumsum(rle.read_runs(mask))
    starts, ends = edges[0:-1:2], edges[1::2]
    pairs = np.stack([starts[: len(ends)] + 1, ends - starts[: len(ends)]], axis=1)
    return " ".join(map(str, pairs[pairs[:, 1] > 0].ravel().tolist()))


def _rows_of(dataset: Dataset, writer: DatasetWriter) -> Iterator[tuple[str, str, str]]:
    for record in dataset.records:
        count = 0
        for item in record.instances:
            place = [writer.place_of(record, item)]
            if item.is_crowd:
                writer.lost.add("regions of uncounted objects left out", place)
                continue
            writer.lost.add("scores left out", place if item.score is not None else [])
            yield writer.stem(record), encode_runs(writer.mask(record, item)), dataset.class_names[item.class_index]
            count += 1
        if not count:
            yield writer.stem(record), "", ""


def _columns_of(head: str) -> Columns | None:
    return _columns_from(next(csv.reader([head.split("\n", 1)[0].rstrip("\r")]), []))


def _columns_from(names: Sequence[str]) -> Columns | None:
    """The columns of a table of run lengths; None for another table."""
    lower = [(name or "").strip().lower() for name in names]
    by_rows = "annotation" in lower and {"width", "height"} <= set(lower)
    runs = next((lower.index(name) for name in RUN_COLUMNS if name in lower), -1)
    runs = lower.index("annotation") if runs < 0 and by_rows else runs
    joined = next((lower.index(name) for name in JOINED_COLUMNS if name in lower), -1)
    image = joined if joined >= 0 else next((lower.index(name) for name in IMAGE_COLUMNS if name in lower), -1)
    classes = next((lower.index(name) for name in CLASS_COLUMNS if name in lower), -1)
    if runs < 0 or image < 0:
        return None
    return Columns(
        names[image],
        names[runs],
        tuple(names),
        classes=names[classes] if classes >= 0 else "",
        has_joined_names=joined >= 0,
        is_by_rows=lower[runs] == "annotation",
    )


def _side_of(name: str) -> str:
    path = PurePosixPath(name)
    words = re.split(r"[_\W]+", path.stem)
    return next((side for word in (*words, path.parent.name) if (side := split_of(word))), "")


def _class_names(listing: FileListing) -> dict[str, str]:
    """Names by number of iMaterialist's table of categories."""
    found = next((name for name in listing.files if PurePosixPath(name).name == CLASS_FILE), "")
    content = listing.json(found) if found else None
    categories = content.get("categories") if isinstance(content, Mapping) else None
    rows = [row for row in categories if isinstance(row, Mapping)] if isinstance(categories, list) else []
    return {str(row["id"]): str(row["name"]) for row in rows if {"id", "name"} <= row.keys()}


def _by_number(name: str) -> tuple[float, str]:
    return (float(name), name) if name.isdecimal() else (float("inf"), name)


@contextmanager
def _long_fields() -> Iterator[None]:
    """Python's csv refuses fields of more than 131,072 characters."""
    before = csv.field_size_limit(MAX_FIELD)
    try:
        yield
    finally:
        csv.field_size_limit(before)

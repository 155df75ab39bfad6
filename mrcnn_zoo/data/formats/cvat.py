"""CVAT's XML 1.1 for images and for videos: polygons, boxes, ellipses and masks of all images in one file."""

import re
from collections.abc import Callable, Mapping, Sequence
from math import radians
from pathlib import Path, PurePosixPath

import numpy as np

from mrcnn_zoo.data.annotations.contract import AnnotationFormat, Annotations, Found, ReadOptions
from mrcnn_zoo.data.annotations.listing import FileListing, ImageFinder, split_of
from mrcnn_zoo.data.annotations.loading import annotation_format
from mrcnn_zoo.data.annotations.objects import AnnotatedImage, AnnotatedObject, class_names_of
from mrcnn_zoo.data.annotations.shapes import box_around, box_polygon, ellipse_polygon, placed_mask, rotated, united
from mrcnn_zoo.data.annotations.writing import DatasetWriter
from mrcnn_zoo.data.annotations.xml_files import Element, elements_of, number_in
from mrcnn_zoo.data.formats.cvat_writing import SCORE, write_cvat
from mrcnn_zoo.data.images.reading import FileImage
from mrcnn_zoo.data.paths import image_file_size
from mrcnn_zoo.data.records import Dataset, RepairLog
from mrcnn_zoo.errors import UserError, counted
from mrcnn_zoo.ops.rle import Rle
from mrcnn_zoo.structures import ImageSize

ROOT = re.compile(r"<annotations[\s>]")
CONTENT = re.compile(r"<(version>|meta>|image\s|track\s)")
SUBSETS = re.compile(r"<subsets?>(.*?)</subsets?>|\bsubset=\"([^\"]*)\"", re.DOTALL)
PART_EXAMINED = 1 << 20  # bytes, in which the names of subsets are
FILES_EXAMINED = 20
IMAGE_FOLDER = "images"
LEFT_OUT = {
    "polyline": "polylines left out",
    "points": "points left out",
    "cuboid": "cuboids left out",
    "skeleton": "skeletons left out",
    "tag": "tags of images left out",
}


@annotation_format("cvat")
class CvatFormat(AnnotationFormat):
    """CVAT for images 1.1, and CVAT for video 1.1 where its frames are image files."""

    finds_images_elsewhere = False
    title = "CVAT XML"
    looked_for = "an .xml file with <annotations> and <image> or <track>, as CVAT exports it"

    def find(self, listing: FileListing) -> Found | None:
        """Sides are the subsets, else those of the names of files and folders."""
        names = sorted(listing.with_suffix(".xml"), key=lambda name: (name.count("/"), name))[:FILES_EXAMINED]
        files: dict[str, list[str]] = {}
        for name in names:
            start = listing.head(name)
            if not (ROOT.search(start) and CONTENT.search(start)):
                continue
            matches = SUBSETS.findall(listing.head(name, PART_EXAMINED))
            subsets = {subset for match in matches for subset in "\n".join(match).split()}
            for side in {split_of(subset) for subset in subsets} - {""} or {_side_of_file(name)}:
                files.setdefault(side, []).append(name)
        if not files:
            return None
        distinct = sorted({name for chosen in files.values() for name in chosen})
        note = distinct[0] if len(distinct) == 1 else counted(len(distinct), "XML file")
        return Found(listing, {side: tuple(chosen) for side, chosen in files.items()}, note)

    def read_images(self, found: Found, options: ReadOptions) -> Annotations:
        """Shapes of one group and label are one object."""
        repairs = RepairLog("object")
        finder = ImageFinder(options.images or found.listing)
        images: list[AnnotatedImage] = []
        labels: dict[str, None] = {}
        for name in dict.fromkeys(name for files in found.splits.values() for name in files):
            file = _File(found.listing.root, name, finder, repairs)
            images += file.images()
            labels |= dict.fromkeys(file.labels)
        finder.check()
        used = {image.source.name for image in images}
        unused = [name for name in finder.paths if str(finder.root / name) not in used]
        repairs.add("images that are not in the file left out", sorted(unused), name="image")
        return Annotations(images, list(labels | dict.fromkeys(class_names_of(images))), repairs)

    def write(self, parts: Mapping[str, Dataset], folder: Path, writer: DatasetWriter) -> None:
        """See `write_cvat`."""
        write_cvat(parts, folder, writer)


class _File:
    """One XML file.

    Args:
        root: of the listing.
        name: of the file, relative to the root.
        finder: of the images.
        repairs: counts shapes that are left out.
    """

    def __init__(self, root: Path, name: str, finder: ImageFinder, repairs: RepairLog) -> None:
        self.path = root / name
        self.folder = name.rpartition("/")[0]
        self.side = _side_of_file(name)
        self.finder = finder
        self.repairs = repairs
        self.labels: list[str] = []
        self.num_frames = -1

    def images(self) -> list[AnnotatedImage]:
        found: list[AnnotatedImage] = []
        frames: dict[int, list[tuple[str, Element]]] = {}
        for element in elements_of(self.path):
            if element.tag == "meta":
                self._read_meta(element)
            elif element.tag == "image":
                found += self._image(element)
            elif element.tag == "track":
                self._add_track(element, frames)
        return found + (self._frames(frames) if frames else [])

    def _read_meta(self, meta: Element) -> None:
        labels = [label for label in meta.iter("label") if label.find("parent") is None]
        self.labels = [name for label in labels if (name := (label.findtext("name") or "").strip())]
        size = meta.findtext("./task/size", meta.findtext("./job/size", ""))
        self.num_frames = int(size) if size.strip().isdecimal() else -1

    def _image(self, element: Element) -> list[AnnotatedImage]:
        name, subset = element.get("name", ""), element.get("subset", "")
        if not name:
            raise UserError(f"{self.path}: <image id={element.get('id')!r}> has no name. Add it, or remove the image.")
        folders = [f"{IMAGE_FOLDER}/{subset}", subset, IMAGE_FOLDER]
        paths = [f"{self.folder}/{folder}/{name}".lstrip("/") for folder in folders if folder]
        image = next((path for path in paths if path in self.finder.paths), "")
        image = image or self.finder.require(name, near=self.folder, listed_in=str(self.path))
        if not image:
            return []
        size = image_file_size(self.finder.root / image)
        given = (element.get("height", ""), element.get("width", ""))
        if all(given) and given != (str(size[0]), str(size[1])):
            raise UserError(
                f"{self.path}: image {name!r} is {given[1]} x {given[0]} pixels (width x height) there, and the file "
                f"{self.finder.root / image} is {size[1]} x {size[0]}. Use the images that were annotated."
            )
        shapes = [(shape.get("label", ""), shape) for shape in element]
        return [self._annotated(image, size, shapes, f"image {name!r}", split_of(subset) or self.side)]

    def _add_track(self, track: Element, frames: dict[int, list[tuple[str, Element]]]) -> None:
        for shape in track:
            if shape.get("outside") != "1" and shape.get("frame") is not None:
                frame = number_in(shape, "frame", place=f"{self.path}, track {track.get('id')}")
                frames.setdefault(int(frame), []).append((track.get("label", ""), shape))

    def _frames(self, frames: Mapping[int, Sequence[tuple[str, Element]]]) -> list[AnnotatedImage]:
        """The frames of a video: files such as frame_000012.png, or as many images as the video has frames."""
        numbers = range(self.num_frames) if self.num_frames > 0 else sorted(frames)
        paths = {number: self.finder.find(f"frame_{number:06d}", near=self.folder) for number in numbers}
        if not any(paths.values()) and len(self.finder.paths) == self.num_frames:
            paths = dict(enumerate(sorted(self.finder.paths)))
        missing = [number for number in sorted(frames) if not paths.get(number)]
        if missing:
            raise UserError(
                f"{self.path} has the tracks of a video, and the image of its frame {missing[0]} is missing "
                f"(frame_{missing[0]:06d}.png; {len(missing)} of {len(frames)} annotated frames are). Export the task "
                'with images ("Save images") as "CVAT for images 1.1", or write the frames of the video as such files.'
            )
        found = []
        for number, path in paths.items():
            if path:
                size = image_file_size(self.finder.root / path)
                found.append(self._annotated(path, size, frames.get(number, ()), f"frame {number}", self.side))
        return found

    def _annotated(
        self, image: str, size: ImageSize, shapes: Sequence[tuple[str, Element]], where: str, side: str
    ) -> AnnotatedImage:
        groups: dict[tuple[str, str], list[tuple[Element, str]]] = {}
        for number, (label, shape) in enumerate(shapes, start=1):
            place = f"{where}, {shape.tag} {number}"
            if shape.tag in LEFT_OUT:
                self.repairs.add(LEFT_OUT[shape.tag], [f"{self.path}, {place}"], name="shape")
                continue
            if shape.tag not in ("mask", *PARSERS):
                raise UserError(f"{self.path}, {place}: <{shape.tag}> is no shape of CVAT 1.1. Remove it.")
            if not label:
                raise UserError(
                    f"{self.path}, {place} has no label, the name of its class. Add it, or remove the shape."
                )
            group = shape.get("group_id", "0")
            key = (label, f"group {group}") if group not in ("", "0") else (label, str(number))
            groups.setdefault(key, []).append((shape, place))
        objects = [self._object(label, members, size) for (label, _), members in groups.items()]
        return AnnotatedImage(FileImage(str(self.finder.root / image)), size, objects, str(self.path), side)

    def _object(self, label: str, members: Sequence[tuple[Element, str]], size: ImageSize) -> AnnotatedObject:
        outlined = [member for member in members if member[0].tag != "box"]
        if outlined and len(outlined) < len(members):  # datumaro writes the box of a mask beside it
            places = [f"{self.path}, {place}" for shape, place in members if shape.tag == "box"]
            self.repairs.add("boxes of masks and polygons in the same group left out", places, name="shape")
            members = outlined
        polygons: list[list[float]] = []
        masks: list[Rle] = []
        is_box = True
        for shape, place in members:
            name = f"{self.path}, {place}"
            if shape.tag == "mask":
                masks.append(_mask(shape, name, size))
            else:
                polygons.append(PARSERS[shape.tag](shape, name))
            is_box &= shape.tag == "box" and float(shape.get("rotation") or 0) == 0
        score = _score(members[0][0])
        if is_box:
            box = box_around([value for polygon in polygons for value in polygon])
            return AnnotatedObject(label, members[0][1], None, box, score=score)
        return AnnotatedObject(label, members[0][1], united(polygons, masks, size), score=score)


def _side_of_file(name: str) -> str:
    path = PurePosixPath(name)
    return next((side for part in (path.stem, *reversed(path.parts[:-1])) if (side := split_of(part))), "")


def _box(shape: Element, place: str) -> list[float]:
    box = [number_in(shape, field, place=place) for field in ("xtl", "ytl", "xbr", "ybr")]
    center = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
    return rotated(box_polygon(box), angle=_angle(shape, place), about=center)


def _ellipse(shape: Element, place: str) -> list[float]:
    x, y, rx, ry = (number_in(shape, field, place=place) for field in ("cx", "cy", "rx", "ry"))
    return ellipse_polygon((x, y), radii=(rx, ry), angle=_angle(shape, place))


def _polygon(shape: Element, place: str) -> list[float]:
    text = shape.get("points", "")
    try:
        points = [[float(value) for value in point.split(",")] for point in text.split(";")]
    except ValueError:
        points = [[]]
    if any(len(point) != 2 for point in points):
        short = text if len(text) < 40 else f"{text[:30]}..."
        raise UserError(f"{place}: points = {short!r} must be x,y;x,y;... Correct or remove the shape.")
    return [value for point in points for value in point]


PARSERS: dict[str, Callable[[Element, str], list[float]]] = {"box": _box, "polygon": _polygon, "ellipse": _ellipse}


def _angle(shape: Element, place: str) -> float:
    """In radians, clockwise."""
    return radians(number_in(shape, "rotation", place=place)) if shape.get("rotation") else 0.0


def _mask(shape: Element, place: str, size: ImageSize) -> Rle:
    """The runs of a mask: 0, 1, 0, ... along the rows of its box."""
    left, top, width, height = (
        int(number_in(shape, field, place=place)) for field in ("left", "top", "width", "height")
    )
    text = shape.get("rle", "")
    try:
        runs = np.array([int(run) for run in text.split(",")], dtype=np.int64)
    except ValueError:
        runs = np.array([-1])
    if runs.min() < 0 or runs.sum() > width * height:
        covered = f"cover {runs.sum()} pixels" if runs.min() >= 0 else "are not whole numbers with commas between them"
        raise UserError(
            f"{place}: the runs of its rle {covered}; width x height is {width} x {height} = {width * height}. Correct "
            "or remove the shape."
        )
    values = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    bitmap = np.pad(values, (0, width * height - len(values))).reshape(height, width)  # the last zeros may be missing
    return placed_mask(bitmap, corner=(left, top), image_size=size)


def _score(shape: Element) -> float | None:
    text = next((item.text for item in shape.iter("attribute") if item.get("name") == SCORE), None)
    try:
        score = float(text or "nan")
    except ValueError:
        return None
    return score if 0 <= score <= 1 else None

"""Pascal VOC: an XML file per image with boxes, and optionally masks of objects and classes as PNG with a palette."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from mrcnn_zoo.data.annotations.contract import AnnotationFormat, Annotations, Found, ReadOptions
from mrcnn_zoo.data.annotations.listing import FileListing, ImageFinder, split_of
from mrcnn_zoo.data.annotations.loading import annotation_format
from mrcnn_zoo.data.annotations.objects import AnnotatedImage, AnnotatedObject, class_names_of
from mrcnn_zoo.data.annotations.writing import DatasetWriter
from mrcnn_zoo.data.formats.voc_files import VocMask, VocObject, class_values, read_masks, read_objects
from mrcnn_zoo.data.formats.voc_writing import write_voc
from mrcnn_zoo.data.images.reading import FileImage
from mrcnn_zoo.data.paths import image_file_size
from mrcnn_zoo.data.records import Dataset, RepairLog
from mrcnn_zoo.errors import UserError, counted
from mrcnn_zoo.structures import ImageSize

ROOT = re.compile(r"<annotation[\s>]")
CONTENT = re.compile(r"<(object|size|filename|folder)[\s>]")
FILES_EXAMINED = 8
XML_FOLDER, OBJECT_FOLDERS = "Annotations", ("SegmentationObject", "SegmentationObjectPNG")
CLASS_FOLDERS = ("SegmentationClass", "SegmentationClassPNG")
IMAGE_FOLDERS = ("JPEGImages", "images", "Images")
LISTS = re.compile(r"(?P<root>(?:.*/)?)ImageSets/(?:(?P<kind>Main|Segmentation)/)?(?P<name>[^/]+)\.txt")
TOLERANCE = 2.0  # pixels by which the box of a mask may reach beyond that of its object


@dataclass(frozen=True)
class Item:
    """The files of one image, relative to the root of the listing; "" for none.

    Args:
        name: of the image without its ending, with its folder.
        near: folder of the annotation file.
        xml: the annotation file.
        mask: the mask of objects.
        side: of the image.
    """

    name: str
    near: str
    xml: str
    mask: str
    side: str


@annotation_format("voc")
class VocFormat(AnnotationFormat):
    """Pascal VOC, also as LabelImg, Roboflow, CVAT and labelme2voc write it."""

    title = "Pascal VOC XML, one file per image"
    looked_for = "*.xml files with <annotation> and <object>, or masks of objects in SegmentationObject/"

    def find(self, listing: FileListing) -> Found | None:
        """Sides by the lists in ImageSets/, else by the names of folders."""
        files = listing.with_suffix(".xml")
        examined = files[:: max(1, len(files) // FILES_EXAMINED)]
        num_xml = sum(_is_annotation(listing.head(name)) for name in examined)
        masks = [] if listing.file else [name for name in listing.files if _is_mask(name)]
        if 2 * num_xml <= len(examined) and not masks:
            return None
        lists = {} if listing.file else _lists_of(listing)
        note = ", ".join([*([counted(len(files), "XML file")] * bool(files)), *([f"{len(masks)} masks"] * bool(masks))])
        if lists:
            return Found(listing, lists, note)
        sides = dict.fromkeys(sorted({_side_of(name) for name in (*files, *masks)}), ())
        return Found(listing, sides, note)

    def read_images(self, found: Found, options: ReadOptions) -> Annotations:
        """Objects of masks have the classes of the masks of classes, else those of the XML file by their numbers."""
        repairs = RepairLog("object")
        reader = _Reader(found, options, repairs)
        images = list(reader.images())
        reader.finder.check()
        names = dict.fromkeys([*reader.class_names, *class_names_of(images)])
        return Annotations(images, list(names), repairs)

    def write(self, parts: Mapping[str, Dataset], folder: Path, writer: DatasetWriter) -> None:
        """See `write_voc`."""
        write_voc(parts, folder, writer)


class _Reader:
    """Reads the images of all sides."""

    def __init__(self, found: Found, options: ReadOptions, repairs: RepairLog) -> None:
        self.root = found.listing.root
        self.options = options
        self.repairs = repairs
        self.files = frozenset(found.listing.files)
        self.images_at = options.images or found.listing
        pictures = [name for name in self.images_at.images if not _is_mask(name) and not _is_class_mask(name)]
        self.by_stem = {name[: name.rfind(".")]: name for name in pictures}
        self.finder = ImageFinder(self.images_at)
        self.items = list(_items(found, options, repairs))
        self.values, self.class_names = class_values(self.root)

    def images(self) -> Iterator[AnnotatedImage]:
        used = set()
        for item in self.items:
            file_name, given, objects = read_objects(self.root / item.xml) if item.xml else ("", (), [])
            image = self._image_of(item, file_name)
            if not image:
                continue
            used.add(image)
            size = image_file_size(self.images_at.root / image)
            if all(given) and given not in (("0", "0"), (str(size[0]), str(size[1]))):
                self.repairs.add("sizes that are not those of the image file ignored", [item.xml], name="file")
            masks = self._masks_of(item, size)
            annotated = _united(objects, masks, f"{self.root / item.mask}")
            source = FileImage(str(self.images_at.root / image))
            yield AnnotatedImage(source, size, annotated, str(self.root / (item.xml or item.mask)), item.side)
        unused = sorted(set(self.by_stem.values()) - used)
        self.repairs.add("images without an annotation file, or in no list, left out", unused, name="image")

    def _image_of(self, item: Item, file_name: str) -> str:
        *folders, stem = item.name.split("/")
        base = "/".join(folders)
        names = [f"{base}/{folder}/{stem}".lstrip("/") for folder in IMAGE_FOLDERS]
        names += [f"{item.near}/{stem}".lstrip("/"), item.name]
        found = next((self.by_stem[name] for name in names if name in self.by_stem), "")
        wanted = file_name or f"{stem}.jpg"
        return found or self.finder.require(wanted, near=item.near, listed_in=str(self.root / (item.xml or item.mask)))

    def _masks_of(self, item: Item, size: ImageSize) -> list[VocMask]:
        if not item.mask:
            return []
        classes = [item.mask.replace(old, new) for old, new in zip(OBJECT_FOLDERS, CLASS_FOLDERS, strict=True)]
        path = next((self.root / name for name in classes if name in self.files and name != item.mask), None)
        return read_masks(self.root / item.mask, path, names=self.values, size=size)


def _is_annotation(head: str) -> bool:
    return bool(ROOT.search(head)) and bool(CONTENT.search(head))


def _folder_of(name: str) -> str:
    return name.rpartition("/")[0].rpartition("/")[2]


def _is_mask(name: str) -> bool:
    return name.endswith(".png") and _folder_of(name) in OBJECT_FOLDERS


def _is_class_mask(name: str) -> bool:
    return _folder_of(name).startswith("Segmentation")


def _side_of(name: str) -> str:
    return next((side for part in name.split("/")[:-1] if (side := split_of(part))), "")


def _lists_of(listing: FileListing) -> dict[str, tuple[tuple[str, str], ...]]:
    """(kind, list) of each side: "Main" or "Segmentation"; those of single classes have other names."""
    found: dict[str, dict[tuple[str, str], str]] = {}
    for name in listing.with_suffix(".txt"):
        match = LISTS.fullmatch(name)
        side = split_of(match["name"]) if match else ""
        if match and side:
            chosen = found.setdefault(side, {})
            key = (match["kind"] or "Main", match["root"])
            if key not in chosen or match["name"] == side:  # train, not trainval
                chosen[key] = name
    return {side: tuple((kind, name) for (kind, _), name in chosen.items()) for side, chosen in found.items()}


def _items(found: Found, options: ReadOptions, repairs: RepairLog) -> Iterator[Item]:
    """The images of all sides. Masks are used where they are needed, with the lists of images that have them."""
    listing: FileListing = found.listing
    xml_files = frozenset(listing.with_suffix(".xml"))
    masks = {} if listing.file else {_stem_of(name): name for name in listing.files if _is_mask(name)}
    annotations = {_stem_of(name): name for name in sorted(xml_files)}
    lists = {side: files for side, files in found.splits.items() if files}
    if not lists:
        for stem in sorted(annotations.keys() | masks.keys()):
            xml, mask = annotations.get(stem, ""), masks.get(stem, "")
            yield Item(stem, str(PurePosixPath(xml or mask).parent).strip("."), xml, mask, _side_of(xml or mask))
        return
    kinds = {kind for files in lists.values() for kind, _ in files}
    wanted = "Segmentation" if masks and (options.needs_masks or kinds == {"Segmentation"}) else "Main"
    kind = wanted if wanted in kinds else sorted(kinds)[0]
    missing = []
    for side, files in lists.items():
        for name in [name for of_kind, name in files if of_kind == kind]:
            for image in _names_in(listing.root / name):
                stem = f"{name[: name.index('ImageSets/')]}{image}"
                xml, mask = annotations.get(stem, ""), masks.get(stem, "")
                if xml or mask:
                    yield Item(stem, str(PurePosixPath(xml or mask).parent).strip("."), xml, mask, side)
                else:
                    missing.append(f"{image} of {name}")
    repairs.add("images of ImageSets without an annotation file left out", missing, name="image")


def _stem_of(name: str) -> str:
    """The name of an image in the lists, with the folder of the dataset."""
    parts = PurePosixPath(name).with_suffix("").parts
    return "/".join(part for part in parts if part not in (XML_FOLDER, *OBJECT_FOLDERS))


def _names_in(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as a list of images: {error}.") from error
    names = [line.strip() for line in lines if line.strip()]
    # A name may be quoted, or followed by 1, 0 or -1.
    return [name[1 : name.index('"', 1)] if name.startswith('"') else re.sub(r"\s+-?[01]$", "", name) for name in names]


def _united(objects: Sequence[VocObject], masks: Sequence[VocMask], mask_file: str) -> list[AnnotatedObject]:
    """The objects of an XML file with their masks, and the masks that are in no XML file."""
    mask_of: dict[int, VocMask] = {}
    others = []
    for mask in masks:
        order = sorted(range(len(objects)), key=lambda row: row != mask.number - 1)
        row = next((row for row in order if row not in mask_of and _belongs(mask, objects[row])), -1)
        if row >= 0:
            mask_of[row] = mask
        elif mask.name:
            others.append(AnnotatedObject(mask.name, f"number {mask.number}", mask.mask))
        else:
            raise UserError(
                f"{mask_file}: object {mask.number} has no class: there is no mask of classes in SegmentationClass/, "
                "and no object of the XML file has a box around it."
            )
    found = []
    for row, item in enumerate(objects):
        segmentation = item.polygons or (mask_of[row].mask if row in mask_of else None)
        annotated = AnnotatedObject(item.name, item.where, segmentation, item.box, is_crowd=item.is_difficult)
        found.append(replace(annotated, box=None) if segmentation is not None else annotated)
    return found + others


def _belongs(mask: VocMask, item: VocObject) -> bool:
    """Whether a mask is inside the box of an object, and of its class."""
    if item.box is None or mask.name not in ("", item.name):
        return False
    low = all(mask.box[axis] >= item.box[axis] - TOLERANCE for axis in (0, 1))
    return low and all(mask.box[axis] <= item.box[axis] + TOLERANCE for axis in (2, 3))

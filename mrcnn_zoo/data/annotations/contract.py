"""What a format of annotation files provides: finding, reading, writing."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar

from mrcnn_zoo.data.annotations.cache import DATASET_CACHE, dataset_key
from mrcnn_zoo.data.annotations.listing import FileListing
from mrcnn_zoo.data.annotations.objects import AnnotatedImage, build_dataset
from mrcnn_zoo.data.annotations.writing import DatasetWriter
from mrcnn_zoo.data.records import Dataset, RepairLog
from mrcnn_zoo.errors import UserError

SIDES = ("train", "val", "test")


@dataclass(frozen=True)
class Found:
    """The files of one format in a folder.

    Args:
        listing: of the folder.
        splits: what the format's `read` needs, by "train", "val", "test"; by "" where the format has no sides here.
        note: the files that were recognized, for the log: "data.yaml", "12 JSON files".
    """

    listing: FileListing
    splits: Mapping[str, Any]
    note: str = ""

    @property
    def sides(self) -> tuple[str, ...]:
        """The sides that the files have; empty where they have none."""
        return tuple(side for side in SIDES if side in self.splits)


@dataclass(frozen=True)
class ReadOptions:
    """The options of a reader.

    Args:
        name: of the dataset, for messages.
        split: the side that is needed; "" for all. A reader may return more.
        images: listing of another folder with the images; None where they are in the folder of the annotations.
        needs_masks: whether unreadable masks are errors; otherwise their objects keep the box alone.
        needs_keypoints: whether unreadable keypoints are errors; otherwise they are left out.
        pages_are_images: whether each page of a TIFF is an image, INPUT.PAGES; for formats of mask files.
        regions: whether label images are masks of classes, of which each connected region is an object.
    """

    name: str
    split: str = ""
    images: FileListing | None = None
    needs_masks: bool = True
    needs_keypoints: bool = True
    pages_are_images: bool = False
    regions: bool = False


@dataclass
class Annotations:
    """What a reader has read.

    Args:
        images: of all sides.
        class_names: in the order of the class indices; of all sides.
        repairs: what was left out or changed.
    """

    images: Sequence[AnnotatedImage]
    class_names: Sequence[str]
    repairs: RepairLog = field(default_factory=lambda: RepairLog("object"))


class AnnotationFormat(ABC):
    """A format of annotation files: found by content, read, written."""

    name: ClassVar[str]  # value of FORMAT, and of `--to`; set by the registration
    title: ClassVar[str]  # for messages: "labelme JSON, one file per image"
    finds_images_elsewhere: ClassVar[bool] = True  # whether its files can name images in other folders
    looked_for: ClassVar[str]  # what `find` needs, for messages: "*.json files with 'shapes' and 'imagePath'"
    reads_one_side: ClassVar[bool] = False  # whether `read_dataset` reads `options.split` alone; otherwise all sides

    @abstractmethod
    def find(self, listing: FileListing) -> Found | None:
        """The files of this format; None if there are none. Decides by content, reads little, and never raises.

        Args:
            listing: of a folder, or of one file (`listing.file`).
        """

    def require(self, listing: FileListing, *, dataset: str) -> Found:
        """The files of this format, where the user has named it as FORMAT.

        Args:
            listing: see `find`.
            dataset: its name, for messages.

        Raises:
            UserError: there are none.
        """
        found = self.find(listing)
        if found is None:
            raise UserError(
                f"dataset {dataset!r}: {listing.path} has no annotations of FORMAT {self.name!r}; it has "
                f"{listing.content()}. Looked for {self.looked_for}."
            )
        return found

    def read_images(self, found: Found, options: ReadOptions) -> Annotations:
        """The annotated images. A format whose objects need no checks has `read_dataset` in its place.

        Args:
            found: by `find`.
            options: of the caller.

        Raises:
            UserError: naming the file, the line or field, and what to do.
        """
        raise NotImplementedError

    def read(self, found: Found, options: ReadOptions) -> Dataset:
        """The dataset, whose records name their side; from the cache if no file has changed.

        Args:
            found: by `find`.
            options: of the caller.

        Raises:
            UserError: see `read_dataset`.
        """
        if not self.reads_one_side:
            options = replace(options, split="")
        listings = self.listings(found, options)
        values = [getattr(options, item.name) for item in fields(options) if item.name not in ("name", "images")]
        folders = [str(listing.path.absolute()) for listing in (found.listing, options.images) if listing is not None]
        key = dataset_key([self.name, found.splits, *values, *folders], listings)
        return DATASET_CACHE.get(key, lambda: self.read_dataset(found, options), name=options.name, listings=listings)

    def listings(self, found: Found, options: ReadOptions) -> list[FileListing]:
        """The folders of which every file may change the dataset.

        Args:
            found: by `find`.
            options: of the caller.
        """
        return [found.listing, *([options.images] if options.images else [])]

    def read_dataset(self, found: Found, options: ReadOptions) -> Dataset:
        """The dataset, read from its files.

        Args:
            found: by `find`.
            options: of the caller.

        Raises:
            UserError: see `read_images` and `build_dataset`.
        """
        read = self.read_images(found, options)
        if not read.images:
            raise UserError(
                f"dataset {options.name!r}: there is no annotated image in {found.listing.path} ({self.title}: "
                f"{found.note})."
            )
        return build_dataset(
            options.name, read.images, read.class_names, repairs=read.repairs, needs_masks=options.needs_masks
        )

    @abstractmethod
    def write(self, parts: Mapping[str, Dataset], folder: Path, writer: DatasetWriter) -> None:
        """Write datasets into an empty folder, which the caller then moves into place.

        Args:
            parts: by side; by "" where there are no sides. All have the same classes.
            folder: that exists.
            writer: places the images and gives polygons and masks; what the format cannot hold is counted in its
                `lost`.
        """

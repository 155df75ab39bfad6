"""Datasets from annotation files: format, side, classes, and the log line about all of it."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.config.own_data import AUTO, SIDES
from mrcnn_zoo.data.annotations.contract import AnnotationFormat, Found, ReadOptions
from mrcnn_zoo.data.annotations.detection import find_format
from mrcnn_zoo.data.annotations.listing import FileListing
from mrcnn_zoo.data.catalog import read_fields
from mrcnn_zoo.data.class_mapping import with_classes
from mrcnn_zoo.data.classes import listed
from mrcnn_zoo.data.images.stacks import StackPage
from mrcnn_zoo.data.paths import find_folder, find_path
from mrcnn_zoo.data.records import Dataset
from mrcnn_zoo.data.splits import assign_parts, rows_of, units_of
from mrcnn_zoo.errors import UserError, counted
from mrcnn_zoo.registries import ANNOTATION_FORMATS, DATASET_FORMATS

HAS_REGIONS = "labels"  # the format with regions of masks of classes
PAGES_ARE_IMAGES = "images"  # value of INPUT.PAGES
CLASSES_SHOWN = 8

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fields:
    """The fields of a definition of annotation files."""

    images: str
    annotations: str
    split: str
    side: str
    val_fraction: float
    group: str
    regions: bool
    classes: Any


def build_annotated_dataset(cfg: CfgNode, name: str, definition: Mapping[str, Any]) -> Dataset:
    """Fields: IMAGES, the folder; ANNOTATIONS, the file or folder of the annotations, by default in IMAGES; SPLIT,
    VAL_FRACTION, GROUP, REGIONS and CLASSES as in DATASETS.DEFAULTS; SIDE, read where SPLIT is auto and the files have
    sides."""
    fields = _fields_of(cfg, name, definition)
    images = None
    if fields.images:
        images = find_folder(fields.images, dataset=name, what="image folder (IMAGES)")
    path = images
    if fields.annotations:
        path = find_path(fields.annotations, dataset=name, what="annotation file")
    assert path is not None  # `_fields_of` requires one of them
    wanted = "" if definition["FORMAT"] == AUTO else definition["FORMAT"]
    kind, found = find_format(path, dataset=name, format_name=wanted)
    # A training set whose val side is a test set does not contain it.
    is_divided = fields.side == "train" and f"{name}:val" in cfg.DATASETS.TEST
    side, is_made = _side_to_read(name, fields, found, is_divided=is_divided)
    options = ReadOptions(
        name,
        split="" if is_made else side,
        images=FileListing(images) if images is not None and path != images else None,
        needs_masks=cfg.MODEL.MASK_ON,
        needs_keypoints=cfg.MODEL.KEYPOINT_ON,
        regions=fields.regions,
        pages_are_images=cfg.INPUT.PAGES == PAGES_ARE_IMAGES,
    )
    if fields.regions and kind.name != HAS_REGIONS:
        logger.warning("%s: DATASETS.DEFAULTS.REGIONS has no effect on the format %s", name, kind.name)
    whole = kind.read(found, options)
    if side and not is_made:
        whole = replace(whole, records=tuple(record for record in whole.records if record.split == side))
    dataset = with_classes(whole, fields.classes, name=name)
    part = _divided(dataset, side, fields) if is_made else dataset
    _log(name, kind, found, whole=dataset, part=part, side=side, is_made=is_made)
    return replace(part, format_name=kind.name)


def _fields_of(cfg: CfgNode, name: str, definition: Mapping[str, Any]) -> Fields:
    defaults = cfg.DATASETS.DEFAULTS
    group = defaults.GROUP or cfg.DATASETS.GROUP
    optional: dict[str, Any] = {"IMAGES": "", "ANNOTATIONS": "", "SPLIT": defaults.SPLIT, "SIDE": "all"}
    optional |= {"VAL_FRACTION": float(defaults.VAL_FRACTION), "GROUP": group}
    optional["REGIONS"] = defaults.REGIONS
    others = {field: value for field, value in definition.items() if field != "CLASSES"}
    values = read_fields(name, others, required=(), optional=optional)
    where = f"DATASETS.DEFINITIONS.{name}"
    if not (values["IMAGES"] or values["ANNOTATIONS"]):
        raise UserError(f"{where} needs the field IMAGES or ANNOTATIONS, the folder or file of the dataset.")
    if values["SPLIT"] not in (AUTO, *SIDES):
        raise UserError(f"{where}.SPLIT = {values['SPLIT']!r} is not one of {', '.join((AUTO, *SIDES))}.")
    return Fields(
        values["IMAGES"],
        values["ANNOTATIONS"],
        values["SPLIT"],
        values["SIDE"],
        float(values["VAL_FRACTION"]),
        values["GROUP"],
        values["REGIONS"],
        definition.get("CLASSES", defaults.CLASSES),
    )


def _side_to_read(name: str, fields: Fields, found: Found, *, is_divided: bool) -> tuple[str, bool]:
    """The side, "" for all images, and whether it is one of a split that is made here."""
    sides = found.sides
    chosen = fields.split if fields.split != AUTO else (fields.side if sides or is_divided else "all")
    if chosen == "all":
        return "", False
    if sides == ("train",) and is_divided and fields.split == AUTO:
        return chosen, True  # its val side is made
    if chosen in sides:
        return chosen, False
    if sides == ("train", "test") and chosen == "val":
        return "test", False
    is_made = "train" not in sides or ("val" not in sides and chosen != "test")
    if sides and (chosen == "test" or not is_made):
        raise UserError(f"dataset {name!r} has no side {chosen!r}: its files have {', '.join(sides)}.")
    if chosen == "test":
        raise UserError(
            f"dataset {name!r} has no side 'test': its files have no sides, and a split that is made has train and val."
        )
    return chosen, True


def _divided(dataset: Dataset, side: str, fields: Fields) -> Dataset:
    """The train or val side of a split that is stratified by classes; equal whatever the order of the files."""
    units = units_of([dataset], group=fields.group)
    if fields.val_fraction <= 0 or len(units) < 2:
        if side == "train":
            return dataset
        what = counted(len(units), "group" if fields.group else "image file")
        raise UserError(
            f"dataset {dataset.name!r} has no val side: VAL_FRACTION is {fields.val_fraction:g} of {what}. Set "
            "DATASETS.DEFAULTS.VAL_FRACTION, or name a test set as DATASETS.TEST."
        )
    parts = assign_parts(units, [1 - fields.val_fraction, fields.val_fraction])
    rows = rows_of([unit for unit, part in zip(units, parts, strict=True) if (part == 1) == (side == "val")])
    return replace(dataset, records=tuple(dataset.records[row] for row in rows))


def _log(
    name: str, kind: AnnotationFormat, found: Found, *, whole: Dataset, part: Dataset, side: str, is_made: bool
) -> None:
    note = f" ({found.note})" if found.note else ""
    text = f"{name}: {kind.title}{note}: {whole.summary()} ({listed(whole.class_names, count=CLASSES_SHOWN)})"
    if is_made:
        text += f"; {side} side of a stratified split: {counted(len(part), 'image')}"
    elif side:
        text += f"; side {side}"
    pages = [record.source.path for record in whole.records if isinstance(record.source, StackPage)]
    if pages:
        text += f"; {counted(len(pages), 'page')} of {counted(len(set(pages)), 'TIFF')} are images (INPUT.PAGES)"
    if whole.notes:
        text += f"; left out or changed: {'; '.join(note.partition(' (first')[0] for note in whole.notes)}"
    logger.info("%s", text)


FormatClass = TypeVar("FormatClass", bound=type[AnnotationFormat])


def annotation_format(name: str) -> Callable[[FormatClass], FormatClass]:
    """Decorator that registers a format under its name: for detection, FORMAT and `--to`.

    Args:
        name: lower case.
    """

    def register(format_class: FormatClass) -> FormatClass:
        format_class.name = name
        DATASET_FORMATS.register(name)(build_annotated_dataset)
        return ANNOTATION_FORMATS.register(name)(format_class)

    return register


DATASET_FORMATS.register(AUTO)(build_annotated_dataset)

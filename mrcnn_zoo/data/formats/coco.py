"""COCO's format: one JSON file with boxes, masks and keypoints, and a folder of images."""

import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.data.catalog import read_fields
from mrcnn_zoo.data.formats.coco_instances import read_instances
from mrcnn_zoo.data.formats.coco_json import read_categories, read_coco_json, read_images
from mrcnn_zoo.data.formats.unsupported_formats import CONVERT, detect_folder_format, is_dsb2018_folder
from mrcnn_zoo.data.images.reading import FileImage
from mrcnn_zoo.data.paths import check_files_exist, find_folder, find_path, image_file_size
from mrcnn_zoo.data.records import Dataset, ImageRecord, RepairLog
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.registries import DATASET_FORMATS
from mrcnn_zoo.structures import ImageSize

ROBOFLOW_FILE = "_annotations.coco.json"
NAMES_SHOWN = 5
PREFIXES = ("instances_", "", "image_info_")  # of the files in COCO's annotations/; the last is for unlabelled images


@DATASET_FORMATS.register("coco")
def build_coco_dataset(cfg: CfgNode, name: str, definition: Mapping[str, Any]) -> Dataset:
    """Fields: IMAGES, the folder; ANNOTATIONS, the JSON file, by default found in or near the folder."""
    fields = read_fields(name, definition, required=("IMAGES",), optional={"ANNOTATIONS": ""})
    folder = find_folder(fields["IMAGES"], dataset=name, what="image folder (IMAGES)")
    if fields["ANNOTATIONS"]:
        annotations = find_path(fields["ANNOTATIONS"], dataset=name, what="annotation file")
    else:
        folder, annotations = find_coco_layout(folder)
    model = cfg.MODEL
    return load_coco(name, folder, annotations, needs_masks=model.MASK_ON, needs_keypoints=model.KEYPOINT_ON)


def load_coco(
    name: str,
    image_folder: Path | None,
    annotation_file: Path,
    *,
    needs_masks: bool = True,
    needs_keypoints: bool = True,
) -> Dataset:
    """The dataset of an annotation file, with its images in the order of their ids.

    Args:
        name: of the dataset.
        image_folder: that file names in the JSON are relative to; None if only the annotations are used, which then
            need the sizes of the images.
        annotation_file: the JSON.
        needs_masks: whether unreadable masks are errors; otherwise their objects keep the box alone.
        needs_keypoints: whether unreadable keypoints are errors; otherwise they are left out.

    Raises:
        UserError: annotations that cannot be repaired, or missing images.
    """
    with _garbage_collection_paused():
        document = read_coco_json(annotation_file)
        repairs = RepairLog()
        categories = read_categories(document, repairs=repairs, needs_keypoints=needs_keypoints)
        images = read_images(
            document, repairs=repairs, measure=lambda file_name: _measured(image_folder, file_name, annotation_file)
        )
        if image_folder is not None:
            check_files_exist(image_folder, images.file_names, listed_in=str(annotation_file))
        instances = read_instances(
            document,
            images=images,
            categories=categories,
            repairs=repairs,
            needs_masks=needs_masks,
            needs_keypoints=needs_keypoints,
        )
    records = tuple(
        ImageRecord(number, FileImage(str((image_folder or Path()) / file_name)), size, tuple(items))
        for number, file_name, size, items in zip(images.ids, images.file_names, images.sizes, instances, strict=True)
    )
    return Dataset(
        name=name,
        records=records,
        class_names=categories.names,
        category_ids=categories.ids,
        keypoint_names=categories.keypoint_names,
        keypoint_flip_pairs=categories.keypoint_flip_pairs,
        keypoint_skeleton=categories.keypoint_skeleton,
        annotation_file=str(annotation_file),
        is_labelled=document.is_labelled,
        notes=repairs.notes(),
    )


def _measured(folder: Path | None, file_name: str, annotation_file: Path) -> ImageSize:
    if folder is None:
        raise UserError(f"{annotation_file}: the image {file_name!r} has no height and width. Add them, in pixels.")
    return image_file_size(folder / file_name)


@contextmanager
def _garbage_collection_paused() -> Iterator[None]:
    """Collecting garbage would take half of the time while millions of objects are created."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def find_coco_layout(folder: Path) -> tuple[Path, Path]:
    """The image folder and the annotation file of a dataset folder.

    Known layouts: Roboflow's `train/_annotations.coco.json` beside the images; one JSON file in the folder with the
    images in `images/` or beside it; COCO's own `val2017/` with `../annotations/instances_val2017.json`.

    Raises:
        UserError: no known layout, or an ambiguous one, with the possible definitions.
    """
    if (folder / ROBOFLOW_FILE).is_file():
        return folder, folder / ROBOFLOW_FILE
    beside = [folder.parent / "annotations" / f"{prefix}{folder.name}.json" for prefix in PREFIXES]
    for annotations in beside:
        if annotations.is_file():
            return folder, annotations
    candidates = sorted(folder.glob("*.json")) or sorted((folder / "annotations").glob("*.json"))
    if len(candidates) == 1:
        images = folder / "images"
        return (images if images.is_dir() else folder), candidates[0]
    raise UserError(_unknown_layout(folder, candidates))


def _unknown_layout(folder: Path, candidates: list[Path]) -> str:
    splits = [child for child in sorted(folder.iterdir()) if child.is_dir() and _is_split(child)]
    if splits:
        return f"{folder} holds several datasets; name one of them: {', '.join(str(split) for split in splits)}."
    other = detect_folder_format(folder)
    if other:
        return f"{folder} holds annotations in {other}, {CONVERT}"
    if is_dsb2018_folder(folder):
        return (
            f"{folder} has a folder per image with 'images' and 'masks', which FORMAT dsb2018 reads: "
            f"{_definition(folder, {'FORMAT': 'dsb2018'})}"
        )
    if candidates:
        names = ", ".join(path.name for path in candidates[:NAMES_SHOWN])
        names += f" and {len(candidates) - NAMES_SHOWN} more" if len(candidates) > NAMES_SHOWN else ""
        return (
            f"{folder} has several JSON files ({names}); name one in the config: "
            f"{_definition(folder, {'FORMAT': 'coco', 'ANNOTATIONS': str(candidates[0])})}"
        )
    return (
        f"{folder} is not in COCO's layout: there is no {ROBOFLOW_FILE}, no other JSON file in it or in its "
        f"'annotations' folder, and no {folder.parent / 'annotations' / ('instances_' + folder.name + '.json')}."
    )


def _definition(folder: Path, fields: dict[str, str]) -> str:
    """The overrides that define a dataset, as typed on the command line."""
    overrides = [f"DATASETS.DEFINITIONS.my_data.{key} {value}" for key, value in {"IMAGES": folder, **fields}.items()]
    return " ".join([*overrides, 'DATASETS.TRAIN "[my_data]"'])


def _is_split(folder: Path) -> bool:
    return (folder / ROBOFLOW_FILE).is_file() or (
        folder.parent / "annotations" / f"instances_{folder.name}.json"
    ).is_file()

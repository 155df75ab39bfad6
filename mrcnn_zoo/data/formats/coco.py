"""COCO's format: one JSON file with boxes, masks and key points, and a folder of images."""

import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.data.definitions import read_fields
from mrcnn_zoo.data.formats.coco_instances import read_instances
from mrcnn_zoo.data.formats.coco_json import read_categories, read_coco_json, read_images
from mrcnn_zoo.data.formats.coco_layout import find_coco_layout
from mrcnn_zoo.data.image_folder import check_files_exist, size_of_file
from mrcnn_zoo.data.images import FileImage
from mrcnn_zoo.data.paths import find_folder, find_path
from mrcnn_zoo.data.records import Dataset, ImageRecord
from mrcnn_zoo.data.repairs import RepairLog
from mrcnn_zoo.registries import DATASET_FORMATS


def load_coco(
    name: str,
    image_folder: Path,
    annotation_file: Path,
    *,
    needs_masks: bool = True,
    needs_keypoints: bool = True,
) -> Dataset:
    """The dataset of an annotation file, with its images in the order of their ids.

    Args:
        name: of the dataset.
        image_folder: what the file names in the JSON are relative to.
        annotation_file: the JSON.
        needs_masks: masks that cannot be read are refused. False, for models without masks: they are left out, and
            their objects keep the box.
        needs_keypoints: the same for keypoints.

    Raises:
        UserError: anything wrong with the annotations that cannot be repaired, or images that are missing.
    """
    with _garbage_collection_paused():
        document = read_coco_json(annotation_file)
        repairs = RepairLog()
        categories = read_categories(document, repairs=repairs, needs_keypoints=needs_keypoints)
        images = read_images(
            document, repairs=repairs, measure=lambda file_name: size_of_file(image_folder / file_name)
        )
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
        ImageRecord(number, FileImage(str(image_folder / file_name)), size, tuple(items))
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


@contextmanager
def _garbage_collection_paused() -> Iterator[None]:
    """No search for garbage while millions of objects come into being, which would take half of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@DATASET_FORMATS.register("coco")
def build_coco_dataset(cfg: CfgNode, name: str, definition: Mapping[str, Any]) -> Dataset:
    """Fields: IMAGES, the folder; ANNOTATIONS, the JSON file, found in or near the folder where it is not given."""
    fields = read_fields(name, definition, required=("IMAGES",), optional={"ANNOTATIONS": ""})
    folder = find_folder(fields["IMAGES"], dataset=name, what="image folder (IMAGES)")
    if fields["ANNOTATIONS"]:
        annotations = find_path(fields["ANNOTATIONS"], dataset=name, what="annotation file")
    else:
        folder, annotations = find_coco_layout(folder)
    model = cfg.MODEL
    return load_coco(name, folder, annotations, needs_masks=model.MASK_ON, needs_keypoints=model.KEYPOINT_ON)

"""Selection of the training images, and log messages about omitted images and objects."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.config.rules import is_classifier
from mrcnn_zoo.data.keypoints import sides_of
from mrcnn_zoo.data.records import Dataset, ImageRecord, InstanceRecord
from mrcnn_zoo.errors import UserError

FLIPS = ("RandomHorizontalFlip", "RandomVerticalFlip")  # of INPUT.AUGMENTATIONS; both exchange left and right
NO_FLIP = "none"  # INPUT.RANDOM_FLIP

logger = logging.getLogger(__name__)

IsTrained = Callable[[InstanceRecord], bool]


def select_for_training(cfg: CfgNode, dataset: Dataset) -> Dataset:
    """The dataset without the images that DATALOADER and MODEL exclude.

    Args:
        cfg: DATALOADER.FILTER_EMPTY_ANNOTATIONS, MODEL.
        dataset: the training data.

    Raises:
        UserError: no image remains, or the data has none of the masks or keypoints that the model needs.
    """
    _check_annotations(cfg, dataset)
    if is_classifier(cfg):
        require_one_object(dataset)
        return dataset  # images without objects are those of the class "no object"
    is_trained = build_object_filter(cfg)
    records: Sequence[ImageRecord] = dataset.records
    if cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS:
        records = [record for record in records if any(map(is_trained, record.instances))]
    if cfg.MODEL.KEYPOINT_ON and records:
        least = cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE
        records = [record for record in records if count_keypoints(record) >= least]
        if not records:
            raise UserError(
                f"dataset {dataset.name!r}: none of its {len(dataset)} images has {least} visible keypoints, as "
                "MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE requires."
            )
    return replace(dataset, records=tuple(records))


def require_one_object(dataset: Dataset) -> None:
    """Refuse a dataset of a classifier in which an image has several objects.

    Args:
        dataset: to train or evaluate on.

    Raises:
        UserError: with the first such image.
    """
    for record in dataset.records:
        count = sum(not item.is_crowd for item in record.instances)
        if count > 1:
            raise UserError(
                f"dataset {dataset.name!r}: {record.source.name} has {count} objects, and a Classifier is trained and "
                f"evaluated on images of one object or none. Use crops of its objects: DATASETS.DEFINITIONS "
                f"\"{{'{dataset.name}_crops': {{'FORMAT': 'object_crops', 'DATASET': '{dataset.name}'}}}}\"."
            )


def build_object_filter(cfg: CfgNode) -> IsTrained:
    """A predicate for the trained objects: no crowds and, with MODEL.MASK_ON, only objects with masks."""
    needs_mask = cfg.MODEL.MASK_ON
    return lambda item: not item.is_crowd and (item.segmentation is not None or not needs_mask)


def warn_of_selection(cfg: CfgNode, dataset: Dataset, selected: Dataset) -> None:
    """Log the objects and images that are not trained on, and images that are not mirrored.

    Args:
        cfg: of the run.
        dataset: the training data.
        selected: the result of `select_for_training`.
    """
    objects = _objects_of(dataset)
    without = [item for item in objects if item.segmentation is None] if cfg.MODEL.MASK_ON else []
    if without:
        logger.warning(
            "%s: %d of %d objects have no mask and are not trained on (first: annotation %d); "
            "set MODEL.MASK_ON False to use them",
            dataset.name,
            len(without),
            len(objects),
            without[0].annotation_id,
        )
    if len(selected) < len(dataset):
        keys = ["DATALOADER.FILTER_EMPTY_ANNOTATIONS"] if cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS else []
        if cfg.MODEL.KEYPOINT_ON:
            least = cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE
            keys.append(f"MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE = {least}")
        logger.info(
            "%s: %d of %d images have objects to train on (%s)",
            dataset.name,
            len(selected),
            len(dataset),
            ", ".join(keys),
        )
    _warn_of_mirrors(cfg, dataset)


def count_keypoints(record: ImageRecord) -> int:
    """The number of labelled keypoints in an image, without crowds."""
    points = [item.keypoints for item in record.instances if item.keypoints and not item.is_crowd]
    return sum(visibility > 0 for keypoints in points for visibility in keypoints[2::3])


def _objects_of(dataset: Dataset) -> list[InstanceRecord]:
    return [item for record in dataset.records for item in record.instances if not item.is_crowd]


def _check_annotations(cfg: CfgNode, dataset: Dataset) -> None:
    """Refuse data without images, objects, or the masks or keypoints that the model needs."""
    name = f"dataset {dataset.name!r}"
    if len(dataset) == 0:
        raise UserError(f"{name} has no images to train on.")
    if not dataset.is_labelled:
        raise UserError(
            f"{name} has no annotations: {dataset.annotation_file or 'one of its files'} lists images alone, as COCO's "
            "file of the unlabelled test images does. It can be predicted on, as DATASETS.TEST; train on another one."
        )
    objects = _objects_of(dataset)
    if not objects:
        is_crowded = any(record.instances for record in dataset.records)
        notes = f" While reading: {'; '.join(dataset.notes)}." if dataset.notes else ""
        raise UserError(
            f"{name}: none of its {len(dataset)} images has an object to train on"
            f"{': all annotations are crowds (iscrowd 1)' if is_crowded else ''}.{notes} Check the annotations"
            f"{f' in {dataset.annotation_file}' if dataset.annotation_file else ''}."
        )
    if cfg.MODEL.MASK_ON and all(item.segmentation is None for item in objects):
        raise UserError(
            f"{name} has boxes but no masks: none of its {len(objects)} objects has a usable 'segmentation'. "
            "Set MODEL.MASK_ON to False to train on boxes alone: MODEL.MASK_ON False."
        )
    if cfg.MODEL.KEYPOINT_ON and not dataset.keypoint_names:
        raise UserError(
            f"MODEL.KEYPOINT_ON is True, but {name} has no keypoints. To train without them: MODEL.KEYPOINT_ON False."
        )


def _warn_of_mirrors(cfg: CfgNode, dataset: Dataset) -> None:
    is_mirrored = cfg.INPUT.RANDOM_FLIP != NO_FLIP or any(name in FLIPS for name in cfg.INPUT.AUGMENTATIONS)
    is_known = dataset.keypoint_flip_pairs is not None or cfg.DATASETS.KEYPOINT_FLIP_PAIRS != "auto"
    if not cfg.MODEL.KEYPOINT_ON or not dataset.keypoint_names or is_known or not is_mirrored:
        return
    names = dataset.keypoint_names
    sides = sides_of(names)
    reason = (
        f"{', '.join(sides.unpaired)} has no counterpart on the other side"
        if sides.unpaired
        else "their names do not differ by left and right"
    )
    pairs = [f"[{names[left]}, {names[right]}]" for left, right in sides.pairs]
    advice = f'"[{", ".join(pairs)}]"' if pairs else f'"[[{names[0]}, {names[-1]}]]" (with your pairs of names)'
    logger.warning(
        "%s: the pairs of keypoints that a mirror exchanges are unknown: %s. Images with keypoints are not mirrored. "
        'Set the pairs, DATASETS.KEYPOINT_FLIP_PAIRS %s, or, if there are none, DATASETS.KEYPOINT_FLIP_PAIRS "[]".',
        dataset.name,
        reason,
        advice,
    )

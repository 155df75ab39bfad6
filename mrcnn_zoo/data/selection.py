"""Which images of a dataset are trained on."""

import logging
from collections.abc import Sequence
from dataclasses import replace

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.data.records import Dataset, ImageRecord, InstanceRecord
from mrcnn_zoo.errors import UserError

logger = logging.getLogger(__name__)


def select_for_training(cfg: CfgNode, dataset: Dataset) -> Dataset:
    """The dataset without the images that DATALOADER and MODEL say not to train on.

    Raises:
        UserError: nothing is left, or masks or key points are to be learned and there are none.
    """
    if len(dataset) == 0:
        raise UserError(f"dataset {dataset.name!r} has no images to train on.")
    if cfg.MODEL.MASK_ON:
        _check_masks(dataset)
    if cfg.MODEL.KEYPOINT_ON and not dataset.keypoint_names:
        raise UserError(f"MODEL.KEYPOINT_ON is True, but dataset {dataset.name!r} has no key points.")
    records: Sequence[ImageRecord] = dataset.records
    if cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS:
        records = [record for record in records if any(not item.is_crowd for item in record.instances)]
    if cfg.MODEL.KEYPOINT_ON and records:
        least = cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE
        records = [record for record in records if count_keypoints(record) >= least]
        if not records:
            raise UserError(
                f"dataset {dataset.name!r}: none of its {len(dataset)} images has {least} visible key points, as "
                "MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE asks for."
            )
    if not records:
        raise UserError(
            f"dataset {dataset.name!r}: none of its {len(dataset)} images has an object to train on. "
            "Check the annotations, or set DATALOADER.FILTER_EMPTY_ANNOTATIONS to False."
        )
    if len(records) < len(dataset):
        logger.info("%s: %d of %d images have objects to train on", dataset.name, len(records), len(dataset))
    return replace(dataset, records=tuple(records))


def count_keypoints(record: ImageRecord) -> int:
    """Labelled key points of the objects of an image, crowds left out."""
    points = [item.keypoints for item in record.instances if item.keypoints and not item.is_crowd]
    return sum(visibility > 0 for keypoints in points for visibility in keypoints[2::3])


def _check_masks(dataset: Dataset) -> None:
    """Objects without a mask are left out of training by the mapper: say so, and stop where it concerns all of them."""
    objects = [item for record in dataset.records for item in record.instances if not item.is_crowd]
    without = [item for item in objects if item.segmentation is None]
    if not without:
        return
    if len(without) == len(objects):
        raise UserError(
            f"dataset {dataset.name!r} has boxes but no masks (no 'segmentation' in any annotation). "
            "Set MODEL.MASK_ON to False to train on boxes alone."
        )
    logger.warning(
        "%s: %d of %d objects have no mask and are not trained on (first: annotation %d); "
        "with MODEL.MASK_ON False they would be",
        dataset.name,
        len(without),
        len(objects),
        _first_id(without),
    )


def _first_id(instances: Sequence[InstanceRecord]) -> int:
    return instances[0].annotation_id

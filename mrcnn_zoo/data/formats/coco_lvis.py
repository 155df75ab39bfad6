"""The fields that LVIS adds to COCO's format: classes verified per image, and the frequencies of classes.

Source: Gupta et al. 2019 (LVIS), section 3.
"""

from collections.abc import Sequence
from typing import Any

from mrcnn_zoo.data.field_rules import short_repr
from mrcnn_zoo.data.formats.coco_json import Categories, CocoJson
from mrcnn_zoo.data.records import Dataset, FederatedLabels, ImageRecord, RepairLog
from mrcnn_zoo.errors import UserError

ABSENT, INCOMPLETE = "neg_category_ids", "not_exhaustive_category_ids"  # of images
FREQUENCY = "frequency"  # of a category: r, c or f, at most 10, at most 100, or more training images


def read_federated(
    document: CocoJson, image_ids: Sequence[int], categories: Categories, *, repairs: RepairLog
) -> list[FederatedLabels | None]:
    """The verified classes of each image, None for images without LVIS's fields.

    Args:
        document: the file.
        image_ids: of its images, in the order of the result.
        categories: of the file.
        repairs: counts ids that 'categories' does not list.

    Raises:
        UserError: a field that is not a list of category ids.
    """
    if not any(ABSENT in image or INCOMPLETE in image for image in document.images):
        return [None] * len(image_ids)
    index_of = {number: index for index, number in enumerate(categories.ids)}
    found: dict[int, FederatedLabels] = {}
    for image in document.images:
        if ABSENT in image or INCOMPLETE in image:
            labels = [_class_indices(document, image, field, index_of, repairs) for field in (ABSENT, INCOMPLETE)]
            found[int(image["id"])] = FederatedLabels(*labels)
    return [found.get(number) for number in image_ids]


def _class_indices(
    document: CocoJson, image: dict[str, Any], field: str, index_of: dict[int, int], repairs: RepairLog
) -> tuple[int, ...]:
    ids = image.get(field, [])
    if not isinstance(ids, list) or not all(type(number) is int for number in ids):
        raise UserError(
            f"{document.path}: image {image['id']} has {field} {short_repr(ids)}, which must be a list of category ids."
        )
    unlisted = [f"{number} of image {image['id']}" for number in ids if number not in index_of]
    repairs.add(f"ids in {field} that 'categories' does not list left out", unlisted, name="id")
    return tuple(index_of[number] for number in ids if number in index_of)


def read_frequencies(document: CocoJson, categories: Categories) -> tuple[str, ...]:
    """The frequency of each class; empty unless all categories have one.

    Args:
        document: the file.
        categories: of the file.
    """
    by_name = {str(category["name"]): category.get(FREQUENCY) for category in document.categories}
    values = [by_name[name] for name in categories.names]
    return tuple(map(str, values)) if all(isinstance(value, str) for value in values) else ()


def federated_fields(record: ImageRecord, category_ids: Sequence[int]) -> dict[str, list[int]]:
    """LVIS's fields of an image in a COCO file; empty if it has none.

    Args:
        record: the image.
        category_ids: of its dataset, by class index.
    """
    labels = record.federated
    if labels is None:
        return {}
    return {
        ABSENT: [category_ids[index] for index in labels.absent],
        INCOMPLETE: [category_ids[index] for index in labels.incomplete],
    }


def frequency_fields(dataset: Dataset) -> list[dict[str, str]]:
    """LVIS's field of each category in a COCO file, empty where the dataset has no frequencies.

    Args:
        dataset: with the classes.
    """
    return [{FREQUENCY: value} for value in dataset.class_frequencies] or [{} for _ in dataset.class_names]

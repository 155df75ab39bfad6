"""The images of MODEL.INT8, on which MODEL.OPTIMIZE int8 measures the ranges of activations."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.data.annotations.detection import has_annotations
from mrcnn_zoo.data.annotations.loading import PAGES_ARE_IMAGES
from mrcnn_zoo.data.catalog import load_dataset
from mrcnn_zoo.data.images.reading import IMAGE_SUFFIXES
from mrcnn_zoo.data.loading.mapper import build_eval_mapper
from mrcnn_zoo.data.records import ImageRecord, ImageSource
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.inference.image_inputs import LoadedImage, find_images, is_address, names_several
from mrcnn_zoo.structures import Sample

KEY = "MODEL.INT8.CALIBRATION"

logger = logging.getLogger(__name__)


def build_calibration_samples(cfg: CfgNode, given: Sequence[ImageSource] = ()) -> list[Sample]:
    """MODEL.INT8.NUM_IMAGES images, as far apart as there are, resized for testing; those that cannot be read are left
    out, with a warning.

    Args:
        cfg: MODEL.INT8, DATASETS.TEST, and the keys of image loading.
        given: taken where MODEL.INT8.CALIBRATION is empty; without them, those of DATASETS.TEST are.

    Raises:
        UserError: no images are named, a name is neither a dataset nor images, or no image can be read.
    """
    names = list(cfg.MODEL.INT8.CALIBRATION)
    if not names and not given and not cfg.DATASETS.TEST:
        raise UserError(
            f"MODEL.OPTIMIZE int8 has no images to measure the ranges of activations on: set {KEY} to a folder of "
            "images like those to predict on."
        )
    if names:
        sources = [source for name in names for source in _sources_of(cfg, name)]
    else:
        sources = list(given) or [source for name in cfg.DATASETS.TEST for source in _sources_of(cfg, name)]
    count = min(cfg.MODEL.INT8.NUM_IMAGES, len(sources))
    mapper, samples, rng = build_eval_mapper(cfg), [], np.random.default_rng(0)  # which the mapper does not use
    for number in range(count):
        source = sources[number * len(sources) // count]
        try:
            pixels = mapper.reader.open(source)
        except UserError as error:
            logger.warning("MODEL.OPTIMIZE int8 leaves out an image of its calibration: %s", error)
            continue
        size = (int(pixels.shape[0]), int(pixels.shape[1]))
        loaded = LoadedImage(source.name, pixels)
        samples.append(mapper(ImageRecord(image_id=number, source=loaded, image_size=size), rng))
    if not samples:
        raise UserError(
            f"MODEL.OPTIMIZE int8: none of the {count} images for its calibration can be read (see above). Set "
            f"{KEY} to a folder of images like those to predict on."
        )
    return samples


def _sources_of(cfg: CfgNode, name: str) -> list[ImageSource]:
    """The images of a dataset, or of a file, folder or pattern."""
    path = Path(name).expanduser()
    is_images = is_address(name) or names_several(name, pages_are_images=False)
    is_images = is_images or path.suffix.lower() in IMAGE_SUFFIXES
    if not is_images or (path.is_dir() and has_annotations(path)):
        try:
            return [record.source for record in load_dataset(cfg, name).records]
        except UserError as error:
            raise UserError(f"{KEY} {name}: {error}") from error
    try:
        found = find_images([name])
    except UserError as error:
        raise UserError(f"{KEY}: {error}") from error
    found.pages_are_images = cfg.INPUT.PAGES == PAGES_ARE_IMAGES
    return [source for source, _ in found.sources()]

"""Whether a converted file finds in an image what its source finds there."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mrcnn_zoo.checkpoint import read_weights
from mrcnn_zoo.checkpoint.conversion.torchvision_detectors import TorchvisionDetector
from mrcnn_zoo.data.images import FileImage
from mrcnn_zoo.data.mapper import TestMapper
from mrcnn_zoo.data.records import ImageRecord
from mrcnn_zoo.errors import UserError, counted
from mrcnn_zoo.evaluation import load_trained
from mrcnn_zoo.experiments.conversion.comparison import Found, compare
from mrcnn_zoo.experiments.conversion.convert import TORCHVISION, Converted
from mrcnn_zoo.structures import Sample


def verify(converted: Converted, image: str | Path) -> Iterator[str]:
    """Lines with the largest differences, from the source to ours and from ours to the file that was written.

    Args:
        converted: what `convert_checkpoint` gave.
        image: a file; it is resized as our config says, and both models get the same pixels.
    """
    sample = sample_of(converted.mapper, image)
    ours = found_by(converted.model, sample)
    yield f"{counted(len(ours.boxes), 'object')} found in {image}"
    name, file = converted.report.converter, converted.source.file
    if name == TorchvisionDetector.source:
        theirs = _found_by_torchvision(file.weights, converted, sample)
        yield f"{file.source} in torchvision, against ours: {compare([ours], [theirs])}"
    elif name or "config" not in file.meta:
        library = name or "Detectron2"
        yield f"{file.source} is taken for a file of {library}, which is not installed: its own model is not compared."
    if converted.kind == TORCHVISION:
        theirs = _found_by_torchvision(read_weights(converted.target).weights, converted, sample)
        yield f"ours, against {converted.target} in torchvision: {compare([ours], [theirs])}"
    else:
        model, _, _ = load_trained(converted.target, overrides=["MODEL.DEVICE", "cpu"], trust=converted.modules)
        yield f"ours, against {converted.target} read back: {compare([ours], [found_by(model, sample)])}"


def open_image(image: str | Path) -> FileImage:
    """An image file.

    Raises:
        UserError: there is none.
    """
    if not Path(image).is_file():
        raise UserError(f"image {image} does not exist.")
    return FileImage(str(image))


def sample_of(mapper: TestMapper, image: str | Path) -> Sample:
    """An image file as a model wants it; results are asked for in the pixels that the model sees."""
    source = open_image(image)
    height, width = source.read().shape[:2]
    record = ImageRecord(image_id=0, source=source, image_size=(int(height), int(width)))
    sample = mapper(record, np.random.default_rng(0))
    return replace(sample, original_size=sample.image_size)


@torch.no_grad()
def found_by(model: nn.Module, sample: Sample) -> Found:
    """What a model of ours finds."""
    return Found.of(model.predict([sample])[0])  # type: ignore[operator]


def _found_by_torchvision(state: Mapping[str, Tensor], converted: Converted, sample: Sample) -> Found:
    from mrcnn_zoo.experiments.conversion.torchvision_detectors import build_torchvision_detector

    if converted.color_order == "BGR":
        sample = replace(sample, image=sample.image.flip(0))
    return build_torchvision_detector(state, converted.source.file.meta).predict([sample])[0]

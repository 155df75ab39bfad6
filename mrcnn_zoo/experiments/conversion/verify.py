"""Whether a converted file finds in an image what its source finds there."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from mrcnn_zoo.checkpoint import read_weights
from mrcnn_zoo.checkpoint.conversion import find_converter
from mrcnn_zoo.checkpoint.conversion.torchvision_detectors import TorchvisionDetector
from mrcnn_zoo.data.images import FileImage
from mrcnn_zoo.data.mapper import build_test_mapper
from mrcnn_zoo.data.records import ImageRecord
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.evaluation.trained import Trained, open_trained
from mrcnn_zoo.experiments.conversion.comparison import Found, compare
from mrcnn_zoo.experiments.conversion.convert import TORCHVISION, Converted
from mrcnn_zoo.structures import Sample


def verify(converted: Converted, image: str | Path) -> Iterator[str]:
    """Lines with the largest differences, from the source to ours and from ours to the file that was written.

    Args:
        converted: what `convert_checkpoint` gave.
        image: a file; it is resized as our config says, and both models get the same pixels.
    """
    source = converted.source
    sample = sample_of(source, image)
    ours = found_by(source, sample)
    yield f"{len(ours.boxes)} instances found in {image}"
    name = source.report.converter or "mrcnn_zoo or Detectron2"
    if source.report.converter == TorchvisionDetector.source:
        theirs = _found_by_torchvision(source, source.file.weights, sample)
        yield f"{source.file.source} in torchvision, against ours: {compare([ours], [theirs])}"
    elif source.report.converter:
        yield f"{source.file.source} is a file of {name}, which is not installed: its own model cannot be compared."
    if converted.kind == TORCHVISION:
        theirs = _found_by_torchvision(source, _state_for_torchvision(converted.target), sample)
        yield f"ours, against {converted.target} in torchvision: {compare([ours], [theirs])}"
    else:
        reopened = open_trained(converted.target, overrides=["MODEL.DEVICE", "cpu"])
        yield f"ours, against {converted.target} read back: {compare([ours], [found_by(reopened, sample)])}"


def open_image(image: str | Path) -> FileImage:
    """An image file.

    Raises:
        UserError: there is none.
    """
    if not Path(image).is_file():
        raise UserError(f"image {image} does not exist.")
    return FileImage(str(image))


def sample_of(trained: Trained, image: str | Path) -> Sample:
    """An image file as the model wants it; results are asked for in the pixels that the model sees."""
    source = open_image(image)
    height, width = source.read().shape[:2]
    record = ImageRecord(image_id=0, source=source, image_size=(int(height), int(width)))
    sample = build_test_mapper(trained.cfg)(record, np.random.default_rng(0))
    return replace(sample, original_size=sample.image_size)


@torch.no_grad()
def found_by(trained: Trained, sample: Sample) -> Found:
    """What our model finds."""
    return Found.of(trained.model.predict([sample])[0])  # type: ignore[operator]


def _found_by_torchvision(trained: Trained, state: dict[str, torch.Tensor], sample: Sample) -> Found:
    from mrcnn_zoo.experiments.conversion.torchvision_detectors import build_torchvision_detector

    if trained.cfg.INPUT.FORMAT == "BGR":
        sample = replace(sample, image=sample.image.flip(0))
    return build_torchvision_detector(state).predict([sample])[0]


def _state_for_torchvision(path: Path) -> dict[str, torch.Tensor]:
    weights = read_weights(path).weights
    if find_converter(weights.keys()) is None:
        raise UserError(f"{path} does not hold a detector of torchvision.")
    return {name: value.float() if value.is_floating_point() else value for name, value in weights.items()}

"""Checks on an image that a converted detector predicts what its source predicts."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mrcnn_zoo.checkpoint import read_weights
from mrcnn_zoo.choices import TORCHVISION
from mrcnn_zoo.data.images.reading import FileImage
from mrcnn_zoo.data.loading.mapper import EvalMapper
from mrcnn_zoo.data.records import ImageRecord
from mrcnn_zoo.errors import UserError, counted
from mrcnn_zoo.evaluation import load_trained
from mrcnn_zoo.interop.comparison import PlainDetections, compare
from mrcnn_zoo.interop.conversion.convert import Converted
from mrcnn_zoo.interop.torchvision.detectors import TorchvisionDetectorConverter
from mrcnn_zoo.interop.torchvision.reference import build_torchvision_reference
from mrcnn_zoo.structures import Sample


def verify(converted: Converted, image: str | Path) -> Iterator[str]:
    """Lines with the largest differences, between the source and ours and between ours and the written file.

    Args:
        converted: the result of `convert_checkpoint`.
        image: a file; it is resized by our config, and all models get the same pixels.
    """
    sample = _read_sample(converted.mapper, image)
    ours = _predict(converted.model, sample)
    yield f"{counted(len(ours.boxes), 'object')} found in {image}"
    name, file = converted.report.converter, converted.source.file
    if name == TorchvisionDetectorConverter.source:
        theirs = _predict_with_torchvision(file.weights, file.meta, sample, color_order=converted.color_order)
        yield f"{file.source} in torchvision, against ours: {compare([ours], [theirs])}"
    elif name or "config" not in file.meta:
        library = name or "Detectron2"
        yield f"{file.source} is taken for a file of {library}, which is not installed: its own model is not compared."
    if converted.kind == TORCHVISION:
        written = read_weights(converted.target).weights
        theirs = _predict_with_torchvision(written, file.meta, sample, color_order=converted.color_order)
        yield f"ours, against {converted.target} in torchvision: {compare([ours], [theirs])}"
    else:
        model, _, _ = load_trained(converted.target, overrides=["MODEL.DEVICE", "cpu"], trust=converted.modules)
        yield f"ours, against {converted.target} read back: {compare([ours], [_predict(model, sample)])}"


def open_image(image: str | Path) -> FileImage:
    """An image file for `verify`.

    Args:
        image: its path.

    Raises:
        UserError: the file does not exist.
    """
    if not Path(image).is_file():
        raise UserError(f"image {image} does not exist.")
    return FileImage(str(image))


def _read_sample(mapper: EvalMapper, image: str | Path) -> Sample:
    """An image file as the input of a model; results are in the pixels of that input."""
    source = open_image(image)
    height, width = source.read().shape[:2]
    record = ImageRecord(image_id=0, source=source, image_size=(int(height), int(width)))
    sample = mapper(record, np.random.default_rng(0))
    return replace(sample, original_size=sample.image_size)


@torch.no_grad()
def _predict(model: nn.Module, sample: Sample) -> PlainDetections:
    return PlainDetections.of(model.predict([sample])[0])  # type: ignore[operator]


def _predict_with_torchvision(
    state: Mapping[str, Tensor], meta: Mapping[str, Any], sample: Sample, *, color_order: str
) -> PlainDetections:
    if color_order == "BGR":
        sample = replace(sample, image=sample.image.flip(0))
    return build_torchvision_reference(state, meta).predict([sample])[0]

"""A detector with its input mapper and class names: from image sources to predictions."""

import contextlib
import inspect
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.config.rules import class_count, is_classifier, section_of_boxes
from mrcnn_zoo.data.annotations.loading import PAGES_ARE_IMAGES
from mrcnn_zoo.data.loading.mapper import EvalMapper
from mrcnn_zoo.data.records import ImageRecord, ImageSource
from mrcnn_zoo.data.tiles import Tiling
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.inference.given_boxes import GivenBoxDetector
from mrcnn_zoo.inference.image_inputs import LoadedImage
from mrcnn_zoo.inference.prediction import OBJECT, Prediction
from mrcnn_zoo.inference.tiles import build_tile_notes, check_predicts_tiles, open_pixels, predict_tiles
from mrcnn_zoo.inference.trained import TrainedFile
from mrcnn_zoo.inference.tta import (
    AugmentedDetector,
    build_augmentation_notes,
    build_augmented_detector,
    build_prediction_mapper,
)
from mrcnn_zoo.modeling.recording import Recording
from mrcnn_zoo.structures import Detections
from mrcnn_zoo.structures.summary import summary

Skip = Callable[[ImageSource, UserError], None]  # called with an image that cannot be read, and why

AddDetections = Callable[[str, Detections], None]  # called with a name and all detections of one forward pass

logger = logging.getLogger(__name__)


class OpenedImage(NamedTuple):
    """An image with its pixels."""

    number: int  # among all images, from 1
    source: ImageSource
    pixels: NDArray[np.generic]  # (H, W, C)


@dataclass(frozen=True, repr=False)
class ImageDetector:
    """A detector with its input mapper and class names.

    The model is switched to evaluation mode once and stays there, so that several threads can predict at the same time.
    """

    model: nn.Module  # with `predict(samples)`
    mapper: EvalMapper  # resizes images and orders their channels
    class_names: tuple[str, ...]  # by class index
    category_ids: tuple[int, ...]  # of the training data, by class index
    pages_are_images: bool = False  # INPUT.PAGES: each page of a TIFF is an image
    tiling: Tiling | None = None  # of the images; None predicts on whole images

    def __post_init__(self) -> None:
        self.model.eval()

    def __repr__(self) -> str:
        return summary(self)

    @property
    def categories(self) -> list[tuple[int, str]]:
        """Category id and class name by class index."""
        return list(zip(self.category_ids, self.class_names, strict=True))

    def stream(
        self,
        sources: Iterable[ImageSource],
        *,
        batch_size: int = 1,
        skip: Skip | None = None,
        add: AddDetections | None = None,
    ) -> Iterator[Prediction]:
        """Detect the objects in each image; all detections of the model, whatever their score.

        Images are read when they are needed and not kept.

        Args:
            sources: of the images; numbered from 1.
            batch_size: images or tiles per forward pass.
            skip: called for images that cannot be read, which are left out; by default the error is raised.
            add: called with the name and the detections of each image or tile.

        Raises:
            UserError: an image cannot be read; the message has its name.
        """
        batch: list[OpenedImage] = []
        for number, source in enumerate(sources, start=1):
            try:
                image, found = self._open(number, source, batch_size, add)
            except UserError as error:
                if skip is None:
                    raise
                skip(source, error)
                continue
            if found is not None:
                yield from self._predictions([image], [found])
                continue
            batch.append(image)
            if len(batch) == batch_size:
                yield from self._predictions(batch, self.detect(batch), add)
                batch = []
        if batch:
            yield from self._predictions(batch, self.detect(batch), add)

    def _open(
        self, number: int, source: ImageSource, batch_size: int, add: AddDetections | None
    ) -> tuple[OpenedImage, Detections | None]:
        """An image, and its detections where it is predicted by tiles, which are read one after the other."""
        reader = self.mapper.reader
        if self.tiling is None:
            return OpenedImage(number, source, reader.open(source)), None
        pixels: Any = open_pixels(source, reader)  # has the indices and the shape of an array

        def detect(tiles: Sequence[NDArray[np.generic]], names: Sequence[str]) -> list[Detections]:
            sources = [LoadedImage(name, tile) for name, tile in zip(names, tiles, strict=True)]
            return self.detect([OpenedImage(number, tile, tile.pixels) for tile in sources])

        found = predict_tiles(
            pixels,
            self.tiling,
            detect,
            name=source.name,
            reduce_depth=reader.reduce_depth,
            batch_size=batch_size,
            add=add,
        )
        return OpenedImage(number, source, pixels), found

    def detect(self, images: Sequence[OpenedImage], recorder: Recording | None = None) -> list[Detections]:
        """Detections of one forward pass, on the CPU, in pixels of the images.

        Args:
            images: a batch.
            recorder: gets the reports of all stages, for models whose `predict` has this parameter.
        """
        rng = np.random.default_rng(0)  # not used by the mapper
        samples = [self.mapper(_record_of(image), rng) for image in images]
        options: dict[str, Any] = {} if recorder is None else {"recorder": recorder}
        # Not inference_mode: tensors cached meanwhile, such as anchors, could not be used in training.
        with torch.no_grad():
            tables: list[Detections] = self.model.predict(samples, **options)  # type: ignore[operator]
        return [table.to("cpu") for table in tables]

    def record(self, source: ImageSource) -> tuple[Prediction, Recording]:
        """All detections in one image, whatever their score, and what each stage of the model did.

        Row r of the prediction is row r of the stage "original size", or of the last stage of models without resizing.

        Args:
            source: of the image.

        Raises:
            UserError: the image cannot be read, or the model has no recorder.
        """
        self._check_can_record()
        recording = Recording()
        image = OpenedImage(1, source, self.mapper.reader.open(source))
        (prediction,) = self._predictions([image], self.detect([image], recording))
        return prediction, recording

    def _check_can_record(self) -> None:
        if isinstance(self.model, AugmentedDetector):
            raise UserError(
                "TEST.AUG.ENABLED is True: the stages of a prediction are recorded for one view of an image, not for "
                "merged views. Set TEST.AUG.ENABLED False."
            )
        if self.tiling is not None:
            raise UserError(
                "tiles: the stages of a prediction are recorded for one forward pass, not for merged tiles. Record a "
                "part of the image, without tiles."
            )
        if isinstance(self.model, GivenBoxDetector):
            raise UserError(
                "--boxes: the stages that find boxes do not run in given boxes, so there is nothing to record. Leave "
                "--boxes out."
            )
        if "recorder" not in inspect.signature(self.model.predict).parameters:  # type: ignore[arg-type]
            raise UserError(
                f"{type(self.model).__name__} (MODEL.META_ARCHITECTURE) records no stages: its `predict` has no "
                "parameter `recorder`. GeneralizedRCNN, ProposalNetwork and RetinaNet have it."
            )

    def _predictions(
        self, images: Sequence[OpenedImage], tables: Sequence[Detections], add: AddDetections | None = None
    ) -> Iterator[Prediction]:
        for image, table in zip(images, tables, strict=True):
            if add is not None:
                add(image.source.name, table)
            yield Prediction(
                name=image.source.name,
                image_id=image.number,
                pixels=image.pixels,
                detections=table,
                class_names=self.class_names,
                category_ids=self.category_ids,
                source=image.source,
            )


def _record_of(image: OpenedImage) -> ImageRecord:
    size = (int(image.pixels.shape[0]), int(image.pixels.shape[1]))
    return ImageRecord(image_id=image.number, source=LoadedImage(image.source.name, image.pixels), image_size=size)


@contextlib.contextmanager
def inference(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; the previous mode of every module is restored.

    For models that are also trained, in one thread: another thread would see the modes change.

    Args:
        model: whose modules are switched.
    """
    modes: Mapping[nn.Module, bool] = {module: module.training for module in model.modules()}
    model.eval()
    try:
        # Not inference_mode: tensors cached meanwhile, such as anchors, could not be used in training.
        with torch.no_grad():
            yield
    finally:
        for module, training in modes.items():
            module.training = training


def build_image_detector(
    cfg: CfgNode,
    model: nn.Module,
    trained: TrainedFile,
    *,
    score_threshold: float = 0.0,
    option: str = "score_threshold",
    tiling: Tiling | None = None,
) -> ImageDetector:
    """An image detector from the results of `open_trained`, with test-time augmentation where TEST.AUG.ENABLED.

    Args:
        cfg: of the model.
        model: is switched to evaluation mode.
        trained: the checkpoint of the model.
        score_threshold: of the caller; a warning is logged where the threshold of the model is higher.
        option: name of the caller's threshold in that warning.
        tiling: of the images; None predicts on whole images.

    Raises:
        UserError: tiles of a model that does not detect objects, or of given boxes.
    """
    if tiling is not None:
        check_predicts_tiles(cfg, has_given_boxes=isinstance(model, GivenBoxDetector))
    if not isinstance(model, GivenBoxDetector):  # which includes the augmentation
        model = build_augmented_detector(cfg, model)
    notes = build_augmentation_notes(cfg) + ([] if tiling is None else build_tile_notes(cfg, tiling))
    for note in notes:
        logger.info("%s", note)
    mapper = build_prediction_mapper(cfg, model)
    pages_are_images = cfg.INPUT.PAGES == PAGES_ARE_IMAGES
    if not getattr(model, "predicts_classes", True):
        return ImageDetector(model, mapper, (OBJECT,), (1,), pages_are_images, tiling)
    if not isinstance(model, GivenBoxDetector) and not is_classifier(cfg):  # which have no threshold
        _warn_of_threshold(cfg, score_threshold, option)
    names = trained.class_names or tuple(str(index) for index in range(class_count(cfg) or 1))
    return ImageDetector(model, mapper, names, trained.category_ids, pages_are_images, tiling)


def _warn_of_threshold(cfg: CfgNode, threshold: float, option: str) -> None:
    """Warn when the threshold of the model is above that of the caller."""
    key = f"MODEL.{section_of_boxes(cfg)}.SCORE_THRESH_TEST"
    least = cfg.value_of(key)
    if threshold < least:
        text = "%s %g: the model drops scores below %s = %g. Set %s %g"
        logger.warning(text, option, threshold, key, least, key, threshold)

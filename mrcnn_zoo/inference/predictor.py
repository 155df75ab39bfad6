"""A trained detector on images of any kind: files, arrays, Pillow images."""

import contextlib
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.config.rules import class_count, is_classifier, section_of_boxes
from mrcnn_zoo.data.images.arrays import as_pixels
from mrcnn_zoo.data.images.pixels import CHANNELS_WITH_ALPHA
from mrcnn_zoo.data.images.problems import cannot_decode
from mrcnn_zoo.data.images.reading import DECODING_ERRORS, FileImage, decode, decode_with_alpha
from mrcnn_zoo.data.loading.mapper import EvalMapper, Mapper
from mrcnn_zoo.data.records import ImageRecord, ImageSource
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.inference.given_boxes import GivenBoxDetector
from mrcnn_zoo.inference.prediction import OBJECT, Prediction
from mrcnn_zoo.inference.thresholds import (
    DEFAULT_THRESHOLD,
    ScoreThreshold,
    check_threshold,
    lowest,
    reaches,
    resolve_threshold,
)
from mrcnn_zoo.inference.trained import TrainedFile, open_trained
from mrcnn_zoo.inference.tta import (
    build_augmentation_notes,
    build_augmented_detector,
    build_prediction_mapper,
)
from mrcnn_zoo.model_zoo import index
from mrcnn_zoo.structures import Detections, Sample
from mrcnn_zoo.structures.summary import summary

ImageInput = str | Path | NDArray[np.generic] | Image.Image  # arrays: (H, W, C) RGB or (H, W) grey

GREY_WITH_ALPHA = 2  # channels

logger = logging.getLogger(__name__)


class Predictor:
    """A trained detector, called with images.

    Classes without names are named "0", "1", ...; the proposals of a `ProposalNetwork` are named "object".

    Args:
        weights: a checkpoint, the output folder of a training, a URL, `zoo://NAME` or the name of a model in the zoo;
            empty for MODEL.WEIGHTS of the config.
        config: a YAML file or the name of a packaged config; by default the config in the checkpoint.
        overrides: `KEY, VALUE` or `KEY=VALUE`, e.g. ["TEST.AUG.ENABLED", True].
        score_threshold: minimum score of a detection in [0, 1], in addition to the config's own threshold,
            MODEL.ROI_HEADS.SCORE_THRESH_TEST or MODEL.RETINANET.SCORE_THRESH_TEST; "best" for the score of highest F1
            of each class, from the checkpoint, or a file of these, inference/score_thresholds.json of an evaluation.
        device: "cpu", "cuda", "cuda:1", ...; by default MODEL.DEVICE of the config: a GPU if there is one.
        batch_size: images per forward pass. Images of different sizes are padded, which changes scores slightly.
        trust: modules whose code the config in the checkpoint may name.

    Raises:
        UserError: the weights cannot be loaded, have no config or do not fill the model; an argument is out of range.
    """

    def __init__(
        self,
        weights: str | Path = "",
        *,
        config: str | Path | None = None,
        overrides: Sequence[Any] = (),
        score_threshold: float | str | Path = DEFAULT_THRESHOLD,
        device: str | torch.device | None = None,
        batch_size: int = 1,
        trust: Iterable[str] = (),
    ) -> None:
        if batch_size < 1:
            raise UserError(f"batch_size = {batch_size} must be at least 1.")
        check_threshold(score_threshold, option="score_threshold")
        if isinstance(overrides, str | Mapping):
            raise UserError(
                f"overrides = {overrides!r} must be a list of keys and values, as [KEY, VALUE] or ['KEY=VALUE']."
            )
        settings = [*overrides, *(() if device is None else ("MODEL.DEVICE", str(device)))]
        model, cfg, trained = open_trained(_in_zoo(weights), config=config, overrides=settings, trust=trust)
        self.score_threshold = resolve_threshold(score_threshold, trained, option="score_threshold")
        self.detector = build_image_detector(cfg, model, trained, score_threshold=lowest(self.score_threshold))
        if str(device).startswith("cuda") and next(model.parameters()).device.type == "cpu":
            logger.warning("device %s: there is no GPU here; running on the CPU", device)
        self.batch_size = batch_size

    @property
    def model(self) -> nn.Module:
        """The detector, in evaluation mode."""
        return self.detector.model

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names by class index."""
        return self.detector.class_names

    @overload
    def __call__(self, images: ImageInput) -> Prediction: ...  # type: ignore[overload-overlap]  # str: a sequence, too

    @overload
    def __call__(self, images: Sequence[ImageInput]) -> list[Prediction]: ...

    def __call__(self, images: ImageInput | Sequence[ImageInput]) -> Prediction | list[Prediction]:
        """Detect the objects in an image or in each image of a list.

        Args:
            images: a file, an array, a Pillow image, or a list of these. EXIF orientation is applied. An alpha channel
                is dropped unless the model has an input channel for it.

        Returns:
            Predictions in pixels of the given images.

        Raises:
            UserError: an image cannot be read; the message has its name.
        """
        if isinstance(images, list | tuple):
            return self._predict(images)
        (prediction,) = self._predict([images])  # type: ignore[list-item]
        return prediction

    def _predict(self, images: Sequence[ImageInput]) -> list[Prediction]:
        predictions: list[Prediction] = []
        for start in range(0, len(images), self.batch_size):
            predictions += self.detector.predict(
                images[start : start + self.batch_size], first_id=start + 1, score_threshold=self.score_threshold
            )
        return predictions


@dataclass(frozen=True, repr=False)
class ImageDetector:
    """A detector with its input mapper and class names."""

    model: nn.Module  # with `predict(samples)`
    mapper: EvalMapper  # resizes images and orders their channels
    class_names: tuple[str, ...]  # by class index
    category_ids: tuple[int, ...]  # of the training data, by class index

    def __repr__(self) -> str:
        return summary(self)

    def predict(
        self, images: Sequence[ImageInput], *, first_id: int = 1, score_threshold: ScoreThreshold
    ) -> list[Prediction]:
        """Detect the objects in each image in one forward pass.

        Args:
            images: files, arrays or Pillow images.
            first_id: number of the first image.
            score_threshold: minimum score of a detection, in [0, 1]; of all classes, or by class index.

        Raises:
            UserError: an image cannot be read; the message has its name.
        """
        named = [self._read(image, number) for number, image in enumerate(images, start=first_id)]
        samples = [
            _as_sample(pixels, mapper=self.mapper, image_id=number, name=name)
            for number, (name, pixels) in enumerate(named, start=first_id)
        ]
        with inference(self.model):
            tables: list[Detections] = self.model.predict(samples)  # type: ignore[operator]
        return [
            Prediction(
                name=name,
                image_id=number,
                pixels=pixels,
                detections=table[reaches(table, score_threshold)].to("cpu"),
                class_names=self.class_names,
                category_ids=self.category_ids,
            )
            for number, ((name, pixels), table) in enumerate(zip(named, tables, strict=True), start=first_id)
        ]

    def _read(self, image: ImageInput, number: int) -> tuple[str, NDArray[np.generic]]:
        source = _source_of(image, f"image {number}", with_alpha=self.mapper.reader.num_channels in CHANNELS_WITH_ALPHA)
        return source.name, self.mapper.reader.open(source)


def _source_of(image: ImageInput, name: str, *, with_alpha: bool) -> ImageSource:
    if isinstance(image, str | Path):
        if not str(image) or "://" in str(image):
            raise UserError(f"{name} is {str(image)!r}: give the path of an image file; URLs are not supported.")
        return FileImage(str(Path(image).expanduser()))
    if isinstance(image, np.ndarray):
        return LoadedImage(name, image if with_alpha else _without_alpha(image))
    if isinstance(image, Image.Image):
        name = str(getattr(image, "filename", "") or name)
        try:
            return LoadedImage(name, decode_with_alpha(image) if with_alpha else decode(image))
        except DECODING_ERRORS as error:
            raise cannot_decode(name, error) from error
    raise UserError(
        f"{name} is a {type(image).__name__}: give a path, a NumPy array (height, width, channels), a Pillow image or "
        "a list of these."
    )


def _without_alpha(array: NDArray[np.generic]) -> NDArray[np.generic]:
    """(H, W, 2) grey with alpha -> (H, W), RGBA -> (H, W, 3), as files are read; other arrays unchanged."""
    if array.ndim != 3 or array.shape[2] not in CHANNELS_WITH_ALPHA:
        return array
    return array[..., 0] if array.shape[2] == GREY_WITH_ALPHA else array[..., :-1]


def _in_zoo(weights: str | Path) -> str | Path:
    """The name of a zoo model as a zoo:// address; other weights unchanged."""
    name = str(weights).removesuffix(".yaml")
    is_name = "://" not in name and not Path(weights).expanduser().exists() and index.has_weights(name)
    return index.PREFIX + name if is_name else weights


@dataclass(frozen=True, repr=False)
class LoadedImage:
    """An image source in memory."""

    name: str
    pixels: NDArray[np.generic]  # (H, W, C) RGB

    def __repr__(self) -> str:
        return summary(self)

    def read(self) -> NDArray[np.generic]:
        """The pixels."""
        return self.pixels


def predict_image(
    model: nn.Module, pixels: NDArray[np.generic], *, mapper: Mapper, image_id: int = 0, name: str = "image"
) -> Detections:
    """Detections of the model in one image, in pixels of that image.

    Args:
        model: with `predict(samples)`.
        pixels: (H, W, 3) RGB, (H, W) grey, or with the input channels of the model; of any bit depth.
        mapper: resizes the image and orders its channels; see `build_eval_mapper`.
        image_id: of the sample.
        name: of the image in messages.

    Raises:
        UserError: pixels of another shape or number of channels, or not finite.
    """
    sample = _as_sample(as_pixels(np.asarray(pixels), name), mapper=mapper, image_id=image_id, name=name)
    with inference(model):
        return model.predict([sample])[0]  # type: ignore[operator]


def _as_sample(pixels: NDArray[np.generic], *, mapper: Mapper, image_id: int, name: str) -> Sample:
    size = (int(pixels.shape[0]), int(pixels.shape[1]))
    record = ImageRecord(image_id=image_id, source=LoadedImage(name, pixels), image_size=size)
    return mapper(record, np.random.default_rng(0))


@contextlib.contextmanager
def inference(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; the previous mode of every module is restored.

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
) -> ImageDetector:
    """An image detector from the results of `open_trained`, with test-time augmentation where TEST.AUG.ENABLED.

    Args:
        cfg: of the model.
        model: in evaluation mode.
        trained: the checkpoint of the model.
        score_threshold: of the caller; a warning is logged where the threshold of the model is higher.
        option: name of the caller's threshold in that warning.
    """
    if not isinstance(model, GivenBoxDetector):  # which includes the augmentation
        model = build_augmented_detector(cfg, model)
    for note in build_augmentation_notes(cfg):
        logger.info("%s", note)
    mapper = build_prediction_mapper(cfg, model)
    if not getattr(model, "predicts_classes", True):
        return ImageDetector(model, mapper, class_names=(OBJECT,), category_ids=(1,))
    if not isinstance(model, GivenBoxDetector) and not is_classifier(cfg):  # which have no threshold
        _warn_of_threshold(cfg, score_threshold, option)
    names = trained.class_names or tuple(str(index) for index in range(class_count(cfg) or 1))
    return ImageDetector(model, mapper, class_names=names, category_ids=trained.category_ids)


def _warn_of_threshold(cfg: CfgNode, threshold: float, option: str) -> None:
    """Warn when the threshold of the model is above that of the caller."""
    key = f"MODEL.{section_of_boxes(cfg)}.SCORE_THRESH_TEST"
    least = cfg.value_of(key)
    if threshold < least:
        text = "%s %g: the model drops scores below %s = %g. Set %s %g"
        logger.warning(text, option, threshold, key, least, key, threshold)

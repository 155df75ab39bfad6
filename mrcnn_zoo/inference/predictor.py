"""A trained detector on images of any kind: files, folders, addresses, arrays, tensors, Pillow images."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from mrcnn_zoo.choices import DEFAULT_THRESHOLD
from mrcnn_zoo.data.images.pixels import CHANNELS_WITH_ALPHA
from mrcnn_zoo.data.records import ImageSource
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.inference.image_detector import build_image_detector
from mrcnn_zoo.inference.image_inputs import ImageInput, names_several, sources_of
from mrcnn_zoo.inference.prediction import Prediction
from mrcnn_zoo.inference.thresholds import check_threshold, lowest, resolve_threshold
from mrcnn_zoo.inference.tiles import tiling_of
from mrcnn_zoo.inference.trained import open_trained
from mrcnn_zoo.inference.video import FramePrediction, is_video, predict_video_frames
from mrcnn_zoo.model_zoo import index
from mrcnn_zoo.modeling.recording import Recording
from mrcnn_zoo.ops.memory import keep_freed_memory

RGB, BGR = CHANNEL_ORDERS = ("RGB", "BGR")
AUTO = "auto"

logger = logging.getLogger(__name__)


class Predictor:
    """A trained detector, called with images. Several threads may call it at the same time.

    Classes without names are named "0", "1", ...; the proposals of a `ProposalNetwork` are named "object".

    Args:
        weights: a checkpoint, the output folder of a training, a URL, `zoo://NAME` or the name of a model in the zoo;
            empty for MODEL.WEIGHTS of the config.
        config: a YAML file or the name of a packaged config; by default the config in the checkpoint.
        overrides: `KEY, VALUE` or `KEY=VALUE`, e.g. ["TEST.AUG.ENABLED", True].
        score_threshold: minimum score of a detection in [0, 1], in addition to the config's own threshold,
            MODEL.ROI_HEADS.SCORE_THRESH_TEST or MODEL.RETINANET.SCORE_THRESH_TEST; "best" for the score of highest F1
            of each class, from the checkpoint, or a file of these, inference/score_thresholds.json of an evaluation.
        device: "cpu", "cuda", "cuda:1", ...; "auto" or None for MODEL.DEVICE of `config` or `overrides`, by default a
            GPU if there is one.
        batch_size: images per forward pass. Images of different sizes are padded, which changes scores slightly.
        channel_order: of arrays and tensors with 3 or 4 channels, "RGB", or "BGR" as OpenCV reads images.
        tiles: side of the tiles in which images are predicted, in pixels; 0 predicts on whole images. `batch_size` is
            the number of tiles per forward pass then.
        tile_overlap: see `tiling_of`.
        trust: modules whose code the config in the checkpoint may name.
        keep_memory: on the CPU, let glibc keep freed memory for the next image (`keep_freed_memory`): faster, but the
            process does not shrink below its peak size. It holds for the whole process.

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
        device: str | torch.device | None = AUTO,
        batch_size: int = 1,
        channel_order: str = RGB,
        tiles: int = 0,
        tile_overlap: float | None = None,
        trust: Iterable[str] = (),
        keep_memory: bool = True,
    ) -> None:
        if not isinstance(batch_size, int) or batch_size < 1:
            raise UserError(f"batch_size = {batch_size!r} must be a whole number of at least 1.")
        if channel_order not in CHANNEL_ORDERS:
            raise UserError(f"channel_order = {channel_order!r} must be one of {', '.join(CHANNEL_ORDERS)}.")
        check_threshold(score_threshold, option="score_threshold")
        if isinstance(overrides, str | Mapping):
            raise UserError(
                f"overrides = {overrides!r} must be a list of keys and values, as [KEY, VALUE] or ['KEY=VALUE']."
            )
        if tile_overlap is not None and not tiles:
            raise UserError(
                f"tile_overlap = {tile_overlap!r} is that of tiles, which is missing: give the side of a tile."
            )
        tiling = tiling_of(tiles, tile_overlap) if tiles else None
        settings = [*overrides, *(() if device in (None, AUTO) else ("MODEL.DEVICE", str(device)))]
        model, cfg, trained = open_trained(
            _in_zoo(weights), config=config, overrides=settings, trust=trust, takes_programs=True
        )
        parameter = next(model.parameters(), None)  # a program has none
        is_on_cpu = parameter is None or parameter.device.type == "cpu"
        if keep_memory and is_on_cpu:
            keep_freed_memory()
        self.score_threshold = resolve_threshold(score_threshold, trained, option="score_threshold")
        self.detector = build_image_detector(
            cfg, model, trained, score_threshold=lowest(self.score_threshold), tiling=tiling
        )
        if str(device).startswith("cuda") and is_on_cpu:
            logger.warning("device %s: there is no GPU here; running on the CPU", device)
        self.batch_size = batch_size
        self.channel_order = channel_order

    @property
    def model(self) -> nn.Module:
        """The detector, in evaluation mode."""
        return self.detector.model

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names by class index."""
        return self.detector.class_names

    @overload
    def __call__(self, images: str | Path) -> Any: ...  # type: ignore[overload-overlap]  # str: a sequence, too

    @overload
    def __call__(self, images: NDArray[np.generic] | Image.Image | Tensor) -> Prediction: ...  # type: ignore[overload-overlap]  # they are iterable, too

    @overload
    def __call__(self, images: Sequence[ImageInput]) -> list[Prediction]: ...  # type: ignore[overload-overlap]

    @overload
    def __call__(self, images: Iterable[ImageInput]) -> Iterator[Prediction]: ...

    def __call__(
        self, images: ImageInput | Iterable[ImageInput]
    ) -> Prediction | list[Prediction] | Iterator[Prediction]:
        """Detect the objects in an image, in each image of a list or folder, or in images one after the other.

        EXIF orientation is applied. An alpha channel is dropped unless the model has an input channel for it.

        Args:
            images: the path or web address of an image; a NumPy array (H, W) or (H, W, C); a tensor (H, W) or
                (C, H, W), uint8, uint16, or float from 0 to 1; a Pillow image; a folder or a glob pattern; a TIFF stack
                where INPUT.PAGES is images; a list or tuple of any of these; or an iterator or generator of them. A
                video file or the number of a camera, as text, is read by `video`.

        Returns:
            A prediction for one image, an iterator for an iterator, a generator or a video, and a list for all others;
            in pixels of the given images.

        Raises:
            UserError: an image cannot be read; the message has its name.
        """
        if isinstance(images, list | tuple):
            return list(self.stream(images))
        if isinstance(images, str | Path) and is_video(images):
            return self.video(images)
        if isinstance(images, Iterator):
            return self.stream(images)
        if names_several(images, pages_are_images=self.detector.pages_are_images):  # type: ignore[arg-type]
            return list(self.stream([images]))  # type: ignore[list-item]
        (prediction,) = self.stream([images])  # type: ignore[list-item]
        return prediction

    def stream(self, images: ImageInput | Iterable[ImageInput]) -> Iterator[Prediction]:
        """Predictions one after the other; an image is read when it is needed and not kept.

        Args:
            images: see `__call__`, also a folder or pattern; these give a prediction for each of their images.

        Raises:
            UserError: an image cannot be read; the message has its name.
        """
        is_iterable = isinstance(images, Iterable) and not isinstance(images, str | np.ndarray | Tensor)
        given: Iterable[ImageInput] = images if is_iterable else [images]  # type: ignore[assignment, list-item]
        for prediction in self.detector.stream(self._sources(given), batch_size=self.batch_size):
            yield prediction.above(self.score_threshold)

    def video(self, source: str | Path) -> Iterator[FramePrediction]:
        """The predictions on the frames of a video, with `frame`, `time` and `tracks`: the numbers of the objects.

        Args:
            source: a file, or the number of a camera, whose frames are dropped while the caller is busy.

        Raises:
            UserError: no such video, or it cannot be read.
        """
        return predict_video_frames(self.detector, source, threshold=self.score_threshold, batch_size=self.batch_size)

    def record(self, image: ImageInput) -> tuple[Prediction, Recording]:
        """All detections in one image, whatever their score, and what each stage of the model did.

        Args:
            image: one image; see `__call__`.

        Raises:
            UserError: several images, the image cannot be read, or the model has no recorder, as with TEST.AUG.ENABLED.
        """
        sources = list(islice(self._sources([image]), 2))
        if len(sources) > 1:
            raise UserError(f"{image} has several images, and record takes one: call it with each of them.")
        return self.detector.record(sources[0])

    def _sources(self, images: Iterable[ImageInput]) -> Iterator[ImageSource]:
        return sources_of(
            images,
            pages_are_images=self.detector.pages_are_images,
            keeps_alpha=self.detector.mapper.reader.num_channels in CHANNELS_WITH_ALPHA,
            is_bgr=self.channel_order == BGR,
        )


def _in_zoo(weights: str | Path) -> str | Path:
    """The name of a zoo model as a zoo:// address; other weights unchanged."""
    name = str(weights).removesuffix(".yaml")
    is_name = "://" not in name and not Path(weights).expanduser().exists() and index.has_weights(name)
    return index.PREFIX + name if is_name else weights

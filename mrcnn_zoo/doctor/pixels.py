"""What is read of an image: whether it can be decoded, its kind of pixels, their statistics, and a thumbnail."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.data.images.pixels import COLORS, DepthReduction, as_image_tensor, luma, order_channels, pixel_format_of
from mrcnn_zoo.data.loading.mapper import PixelReader, build_pixel_reader, check_size
from mrcnn_zoo.data.records import ImageRecord
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.progress import ProgressLine, show_progress

THUMBNAIL_SIDE = 64  # pixels
MEASURED_PIXELS = 1_000_000  # at most, of an image; of a larger one every second, third, ... row and column

Thumbnail = NDArray[np.float32]  # (64, 64) grey


@dataclass(frozen=True)
class ImageFacts:
    """What was read of an image; all but the first two are empty where it cannot be read.

    Args:
        problem: the message about an image that cannot be read; "" for a good one.
        has_wrong_size: whether the problem is a size other than in the annotations.
        kind: of the pixels in the file, e.g. "8-bit RGB".
        means: (C,) mean per channel of the network's input.
        squares: (C,) mean of the squares per channel.
        low: smallest value of the network's input.
        high: largest value.
        thumbnail: of the brightness.
        seconds: for reading and decoding.
    """

    problem: str = ""
    has_wrong_size: bool = False
    kind: str = ""
    means: tuple[float, ...] = ()
    squares: tuple[float, ...] = ()
    low: float = 0.0
    high: float = 0.0
    thumbnail: Thumbnail | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class FactReader:
    """Reads images as the training does.

    Args:
        reader: of the files.
        reduce_depth: of pixels of more than 8 bits.
        pixel_format: order of the channels of the input.
    """

    reader: PixelReader
    reduce_depth: DepthReduction
    pixel_format: str

    def __call__(self, record: ImageRecord) -> ImageFacts:
        """The facts of an image.

        Args:
            record: of the image.
        """
        start = time.perf_counter()
        try:
            pixels = self.reader.open(record.source)
        except UserError as error:
            return ImageFacts(problem=str(error))
        seconds = time.perf_counter() - start
        try:
            check_size(record, pixels)
        except UserError as error:
            return ImageFacts(problem=str(error), has_wrong_size=True)
        try:
            image = as_image_tensor(pixels, self.reduce_depth)
        except UserError as error:
            return ImageFacts(problem=f"{record.source.name}: {error}")
        step = max(1, math.ceil(math.sqrt(image[0].numel() / MEASURED_PIXELS)))  # 100 million pixels take 7 GB
        part = image[:, ::step, ::step]
        grey = luma(part)[0] if len(part) == COLORS else part.float().mean(dim=0)
        values = order_channels(part, self.pixel_format).double().flatten(1)
        return ImageFacts(
            kind=kind_of_pixels(pixels[::step, ::step]),
            means=tuple(values.mean(dim=1).tolist()),
            squares=tuple(values.square().mean(dim=1).tolist()),
            low=float(image.min()),
            high=float(image.max()),
            thumbnail=thumbnail_of(grey.numpy()),
            seconds=seconds,
        )


def kind_of_pixels(pixels: NDArray[np.generic]) -> str:
    """Depth and channels, e.g. "8-bit RGB", "16-bit grey", "8-bit with 5 channels".

    Args:
        pixels: (H, W, C).
    """
    depth = "float" if pixels.dtype.kind == "f" else f"{8 * pixels.dtype.itemsize}-bit"
    if pixels.shape[2] == 1 or (pixels.shape[2] == COLORS and bool((pixels == pixels[:, :, :1]).all())):
        return f"{depth} grey"
    return f"{depth} RGB" if pixels.shape[2] == COLORS else f"{depth} with {pixels.shape[2]} channels"


def thumbnail_of(grey: NDArray[np.generic]) -> Thumbnail:
    """(64, 64) float32 means of parts of an image.

    Args:
        grey: (H, W).
    """
    image = Image.fromarray(np.ascontiguousarray(grey, dtype=np.float32))
    return np.asarray(image.resize((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.BOX))


def build_fact_reader(cfg: CfgNode) -> FactReader:
    """The reader of a config.

    Args:
        cfg: INPUT, MODEL.PIXEL_MEAN and PIXEL_STD.

    Raises:
        UserError: settings that contradict each other.
    """
    reader = build_pixel_reader(cfg)
    return FactReader(reader, reader.reduce_depth, pixel_format_of(cfg))


def read_facts(
    records: Sequence[ImageRecord], read: Callable[[ImageRecord], ImageFacts], *, label: str
) -> Iterator[ImageFacts]:
    """The facts of images, with a line of progress.

    Args:
        records: of the images.
        read: see `FactReader`.
        label: of the line.
    """
    line = ProgressLine(label, total=len(records))
    with show_progress(line) as display:
        for record in records:
            yield read(record)
            line.done += 1
            if display is not None:
                display.refresh()

"""Frames of video files and cameras, and the predictions on them with the numbers of the objects."""

import glob
import logging
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mrcnn_zoo.errors import UserError, counted
from mrcnn_zoo.inference.image_detector import AddDetections, ImageDetector
from mrcnn_zoo.inference.prediction import Prediction
from mrcnn_zoo.inference.thresholds import ScoreThreshold
from mrcnn_zoo.inference.tracking import Tracker
from mrcnn_zoo.inspection.canvas import Color, distinct_color
from mrcnn_zoo.inspection.draw import draw_instances
from mrcnn_zoo.structures.summary import summary

VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".ts", ".mts", ".m2ts"),
    *(".3gp", ".ogv"),
)
INSTALL_VIDEO = 'pip install "mrcnn_zoo[video]"'
DEFAULT_RATE = Fraction(25)  # frames per second, where a file names none
QUARTER_TURN = 90  # degrees
CLOSING_SECONDS = 2.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, repr=False)
class Frame:
    """A frame of a video: an image source."""

    name: str  # of the video, and the number of the frame
    index: int  # from 0, in the video
    time: float  # seconds from the first frame
    pixels: NDArray[np.uint8]  # (H, W, 3) RGB, upright

    def __repr__(self) -> str:
        return summary(self)

    def read(self) -> NDArray[np.uint8]:
        """The pixels."""
        return self.pixels


@dataclass(frozen=True, repr=False)
class FramePrediction(Prediction):
    """The objects of a frame, each with the number that it has in all frames."""

    frame: int = 0  # from 0, in the video
    time: float = 0.0  # seconds from the first frame

    @property
    def tracks(self) -> list[int]:
        """The number of each object, from 1; equal in all frames that show the object."""
        return [] if self.detections.tracks is None else self.detections.tracks.tolist()

    @property
    def colors(self) -> list[Color]:
        """The colour of each object in all frames."""
        return [distinct_color(number - 1) for number in self.tracks]

    def draw(self, *, has_labels: bool = True, opacity: float = 0.4) -> Image.Image:
        """As `Prediction.draw`, with the colours of the objects.

        Args:
            has_labels: whether class and score are drawn.
            opacity: of the masks, in [0, 1].
        """
        picture = draw_instances(
            self.pixels,
            self.detections,
            self.class_names,
            has_labels=has_labels,
            opacity=opacity,
            colors=self.colors,
        )
        return Image.fromarray(picture)


def is_video(text: str | Path) -> bool:
    """Whether an input is a video file by its name, or the number of a camera where no such file exists.

    Args:
        text: as given.
    """
    return str(text).lower().endswith(VIDEO_SUFFIXES) or is_camera(text)


def split_videos(inputs: Sequence[str]) -> tuple[list[str], list[str]]:
    """Videos, and the other inputs; patterns such as `x/*.mp4` are expanded.

    Folders and other patterns are searched for images alone; a warning counts the videos in them.

    Args:
        inputs: files, folders, patterns, addresses and numbers of cameras.
    """
    videos, others = [], []
    for text in inputs:
        place = Path(text).expanduser()
        matches = [] if "://" in text or place.is_file() else sorted(glob.glob(str(place), recursive=True))
        if is_video(text):
            videos += matches if matches and not place.exists() else [text]
            continue
        others.append(text)
        found = [path for path in (place.iterdir() if place.is_dir() else matches) if is_video(path)]
        if found:
            name, suffix = (f"{text}/*" if place.is_dir() else text), Path(found[0]).suffix
            count = counted(len(found), "video")
            logger.warning("%s: %s not read. To predict on videos, name them, e.g. %s%s", text, count, name, suffix)
    return list(dict.fromkeys(videos)), others


def is_camera(text: str | Path) -> bool:
    """Whether an input is the number of a camera: digits, where no such file exists.

    Args:
        text: as given.
    """
    return str(text).isascii() and str(text).isdigit() and not Path(text).exists()


class Video:
    """The frames of a video file or camera, once.

    Use it as a context, or close it.

    Args:
        source: a file, or the number of a camera.

    Raises:
        UserError: PyAV is not installed, or there is no such video, no camera, or no picture in it.
    """

    def __init__(self, source: str | Path) -> None:
        self.name = str(source)
        self.is_live = is_camera(source)
        place, kind = _camera(self.name) if self.is_live else (_existing(source), None)
        with _errors(self.name) as av:
            self._container = av.open(place, format=kind)
            if not self._container.streams.video:
                self._container.close()
                raise UserError(f"{self.name} has no pictures: it has sound or text only, no video stream.")
            self._stream = self._container.streams.video[0]
            self._stream.thread_type = "AUTO"
        self.rate: Fraction = self._stream.average_rate or self._stream.guessed_rate or DEFAULT_RATE
        self.num_frames: int = self._stream.frames  # 0 where the file does not name it
        self.num_damaged = 0  # packets that could not be decoded so far

    def __enter__(self) -> "Video":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file or camera."""
        self._container.close()

    def frames(self) -> Iterator[Frame]:
        """The frames in order of time, upright: rotation by metadata is applied. Damaged ones are left out.

        Raises:
            UserError: no frame can be decoded.
        """
        first, index = None, -1
        for index, frame in enumerate(self._decoded()):
            time = index / float(self.rate) if frame.time is None else frame.time
            first = time if first is None else first
            pixels = frame.to_ndarray(format="rgb24")
            turns = round(frame.rotation / QUARTER_TURN) % 4  # counterclockwise
            pixels = np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels
            yield Frame(f"{self.name}, frame {index}", index, time - first, pixels)
        if index < 0:
            raise UserError(f"{self.name} has no frame that can be decoded; the file may be damaged or cut off.")
        if self.num_damaged:
            logger.warning("%s: %s could not be decoded", self.name, counted(self.num_damaged, "damaged packet"))

    def _decoded(self) -> Iterator[Any]:
        with _errors(self.name) as av:
            for packet in self._container.demux(self._stream):
                try:
                    decoded = packet.decode()
                except av.error.InvalidDataError:
                    self.num_damaged += 1
                    continue
                yield from decoded


def _existing(source: str | Path) -> str:
    path = Path(source).expanduser()
    if not path.is_file():
        raise UserError(f"{source}: there is no such video file.")
    if not path.stat().st_size:
        raise UserError(f"{source} is empty: its file has 0 bytes.")
    return str(path)


def _camera(number: str) -> tuple[str, str]:
    """The address and the format of a camera for FFmpeg."""
    if sys.platform == "darwin":
        return f"{number}:none", "avfoundation"
    if not sys.platform.startswith("linux"):
        raise UserError(
            f"camera {number}: cameras are read on Linux and macOS. Record a video file, and predict on that."
        )
    path = Path(f"/dev/video{number}")
    if not path.exists():
        raise UserError(f"there is no camera {number} ({path}), and no file of this name.")
    return str(path), "v4l2"


@contextmanager
def _errors(name: str) -> Iterator[Any]:
    """PyAV; its errors are turned into `UserError`."""
    try:
        import av
    except ImportError as error:
        raise UserError(f"{name} is a video, which needs PyAV. Install it with `{INSTALL_VIDEO}`.") from error
    try:
        yield av
    except av.error.FFmpegError as error:
        raise UserError(
            f"{name} cannot be read as a video ({error.strerror or error}). It may be damaged, cut off or of another "
            "kind; convert it, e.g. to MP4."
        ) from error


class LatestFrames:
    """The frames of a live source that a slower consumer gets: always the latest, others are dropped.

    A thread reads the source. An error of the source is raised in the consumer.

    Args:
        frames: of the source.
    """

    def __init__(self, frames: Iterator[Frame]) -> None:
        self.num_dropped = 0
        self._frames = frames
        self._latest: Frame | None = None
        self._is_finished, self._is_closed = False, False
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._read, name="frames of a camera", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Frame]:
        return self

    def __next__(self) -> Frame:
        with self._changed:
            self._changed.wait_for(lambda: self._latest is not None or self._is_finished)
            frame, self._latest = self._latest, None
            if frame is not None:
                return frame
            if self._error is not None:
                raise self._error
            raise StopIteration

    def close(self) -> None:
        """End the thread after the frame that it reads; a camera that gives no more frames is not waited for."""
        self._is_closed = True
        self._thread.join(CLOSING_SECONDS)

    def _read(self) -> None:
        try:
            for frame in self._frames:
                with self._changed:
                    self.num_dropped += self._latest is not None
                    self._latest = frame
                    self._changed.notify_all()
                if self._is_closed:
                    break
        except BaseException as error:
            self._error = error
        finally:
            with self._changed:
                self._is_finished = True
                self._changed.notify_all()


def predict_video_frames(
    detector: ImageDetector, source: str | Path, *, threshold: ScoreThreshold, batch_size: int = 1
) -> Iterator[FramePrediction]:
    """The objects of each frame of a video file or camera.

    Args:
        detector: of the objects.
        source: a file, or the number of a camera, whose frames are dropped while the consumer is busy.
        threshold: minimum score, in [0, 1]; of all classes, or by class index.
        batch_size: frames per forward pass; 1 for cameras.

    Raises:
        UserError: see `Video`.
    """
    with Video(source) as video, ExitStack() as stack:
        frames: Any = video.frames()
        if video.is_live:
            frames, batch_size = stack.enter_context(closing(LatestFrames(frames))), 1
        yield from predict_frames(detector, frames, threshold=threshold, batch_size=batch_size)


def predict_frames(
    detector: ImageDetector,
    frames: Iterator[Frame],
    *,
    threshold: ScoreThreshold,
    batch_size: int = 1,
    add: AddDetections | None = None,
) -> Iterator[FramePrediction]:
    """The objects of each frame, numbered over all frames.

    Args:
        detector: of the objects.
        frames: of one video.
        threshold: minimum score, in [0, 1]; of all classes, or by class index.
        batch_size: frames per forward pass.
        add: see `ImageDetector.stream`.
    """
    tracker = Tracker()
    for everything in detector.stream(frames, batch_size=batch_size, add=add):
        prediction, frame = everything.above(threshold), everything.source
        assert isinstance(frame, Frame)
        yield FramePrediction(
            prediction.name,
            prediction.image_id,
            prediction.pixels,
            tracker.update(prediction.detections),
            prediction.class_names,
            prediction.category_ids,
            frame,
            frame=frame.index,
            time=frame.time,
        )

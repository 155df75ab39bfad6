"""Predictions on videos as files: the drawn video, and the objects of each frame as CSV and JSON."""

import csv
import json
import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from PIL import Image

from mrcnn_zoo.errors import UserError, counted
from mrcnn_zoo.evaluation.limits import DetectionTally, log_notes
from mrcnn_zoo.inference.image_detector import ImageDetector
from mrcnn_zoo.inference.image_files import DESCRIPTION, SPLASH
from mrcnn_zoo.inference.prediction import coco_rows
from mrcnn_zoo.inference.thresholds import ScoreThreshold
from mrcnn_zoo.inference.video import INSTALL_VIDEO, FramePrediction, LatestFrames, Video, is_camera, predict_frames
from mrcnn_zoo.inspection.canvas import Picture
from mrcnn_zoo.inspection.draw import draw_instances, draw_splash
from mrcnn_zoo.output_files import UNFINISHED_SUFFIX, check_output_folder, refuse_to_replace, remove_if_empty
from mrcnn_zoo.progress import ProgressLine, show_progress

COLUMNS = ("frame", "time", "track", "class", "score", "x1", "y1", "x2", "y2", "area")
TICKS = 90_000  # of the time base of written videos, per second; a multiple of all usual frame rates
CLASSES_SHOWN = 5
ENCODER = "libx264"
QUALITY = {"crf": "20", "preset": "veryfast"}  # of H.264; crf 18 is hardly distinguishable from the original

logger = logging.getLogger(__name__)


@dataclass
class PredictedVideo:
    """The results of `predict_video`."""

    name: str
    files: list[Path] = field(default_factory=list)  # MP4, CSV, JSON; empty without a frame
    num_frames: int = 0
    num_dropped: int = 0  # frames of a camera that the model was too slow for
    class_of_track: dict[int, str] = field(default_factory=dict)  # by number of the object; its last class
    is_interrupted: bool = False

    @property
    def counts(self) -> Counter[str]:
        """The number of objects by class, each once for all frames."""
        return Counter(self.class_of_track.values())


def video_paths(name: str, output: Path) -> list[Path]:
    """The MP4, CSV and JSON file of the predictions on a video.

    Args:
        name: path of the video, or number of a camera.
        output: folder of the files.
    """
    stem = f"camera_{name}" if is_camera(name) else Path(name).stem
    return [output / f"{stem}{suffix}" for suffix in (".mp4", ".csv", ".json")]


def check_video_outputs(names: Sequence[str], folder: str | Path, *, overwrite: bool) -> Path:
    """Check the output folder of videos before the model runs; predictions of an earlier run are replaced.

    Args:
        names: of the videos and cameras.
        folder: as given by the user.
        overwrite: whether files that are not predictions are replaced, too.

    Returns:
        The folder with `~` expanded.

    Raises:
        UserError: the folder cannot be written, two videos have one name, a video would be overwritten, or files that
            are not predictions would be replaced.
    """
    output = check_output_folder(folder, option="--output")
    originals = {Path(name).expanduser().resolve() for name in names}
    taken: dict[Path, str] = {}
    for name in names:
        paths = video_paths(name, output)
        for path in paths:
            if path.resolve() in originals:
                raise UserError(
                    f"--output {output} contains the video {name}, which would be overwritten. Name another."
                )
            if path in taken:
                raise UserError(
                    f"{taken[path]} and {name} would both be written to {path}: predict on them separately."
                )
            taken[path] = name
        if not overwrite and not _is_own_file(paths[-1]):
            refuse_to_replace([path for path in paths if path.exists()], option="--output")
    return output


def _is_own_file(path: Path) -> bool:
    try:
        with path.open(encoding="utf-8") as file:
            return json.dumps({"description": DESCRIPTION}) in file.read(200)
    except (OSError, ValueError):
        return False


def predict_video(
    detector: ImageDetector,
    name: str,
    output: Path,
    *,
    score_threshold: ScoreThreshold,
    batch_size: int = 1,
    has_labels: bool = True,
    style: str = "objects",
    tally: DetectionTally | None = None,
) -> PredictedVideo:
    """Detect the objects of a video or camera, and write an MP4, a CSV and a JSON file while it is read.

    An interrupt (Ctrl-C) ends the files properly after the frames so far. Frames of a camera are dropped where the
    model is too slow, so that the picture is not delayed.

    Args:
        detector: of the objects.
        name: path of the video, or number of a camera.
        output: folder of the files.
        score_threshold: minimum score, in [0, 1]; of all classes, or by class index.
        batch_size: frames per forward pass; 1 for cameras.
        has_labels: whether classes and scores are drawn.
        style: of the pictures, see `predict_images`.
        tally: see `predict_images`.

    Raises:
        UserError: the video cannot be read, or a file cannot be written.
    """
    result = PredictedVideo(name)
    with ExitStack() as stack:
        video = stack.enter_context(Video(name))
        frames: Any = video.frames()
        if video.is_live:
            frames, batch_size = stack.enter_context(closing(LatestFrames(frames))), 1
        files = stack.enter_context(_files(video_paths(name, output), video.rate, detector.categories))
        line = ProgressLine(Path(name).name, total=video.num_frames)
        display = stack.enter_context(show_progress(line))
        add = None if tally is None else tally.add
        try:
            for prediction in predict_frames(
                detector, frames, threshold=score_threshold, batch_size=batch_size, add=add
            ):
                files.write(prediction, _picture(prediction, has_labels=has_labels, style=style))
                result.num_frames += 1
                result.class_of_track.update(zip(prediction.tracks, prediction.names, strict=True))
                line.done += 1
                if display is not None:
                    display.refresh()
        except KeyboardInterrupt:
            result.is_interrupted = True
            logger.info("%s: stopped after %s", name, counted(result.num_frames, "frame"))
        if video.is_live:
            result.num_dropped = frames.num_dropped
    result.files = [path for path in video_paths(name, output) if result.num_frames]
    if tally is not None:
        log_notes(tally.notes(), logged=set())
    return result


def summary_of_video(result: PredictedVideo) -> str:
    """The numbers of frames and objects, and the written files.

    Args:
        result: of `predict_video`.
    """
    objects = ", ".join(f"{count:,} x {name}" for name, count in result.counts.most_common(CLASSES_SHOWN))
    more = len(result.counts) - CLASSES_SHOWN
    rest = f", {counted(more, 'more class')}" if more > 0 else ""
    dropped = f", {counted(result.num_dropped, 'frame')} dropped" if result.num_dropped else ""
    text = f"{result.name}: {counted(result.num_frames, 'frame')}{dropped}, "
    text += f"{counted(len(result.class_of_track), 'object')}{f' ({objects}{rest})' if objects else ''}."
    return text + (f" Written: {', '.join(map(str, result.files))}" if result.files else " Nothing is written.")


def _picture(prediction: FramePrediction, *, has_labels: bool, style: str) -> Picture:
    if style == SPLASH:
        return draw_splash(prediction.pixels, prediction.detections)
    return draw_instances(
        prediction.pixels,
        prediction.detections,
        prediction.class_names,
        colors=prediction.colors,
        has_labels=has_labels,
    )


class _VideoFiles:
    """The three files, written frame by frame."""

    def __init__(self, video: "VideoWriter", table: TextIO, objects: TextIO, categories: list[tuple[int, str]]) -> None:
        self._video = video
        self._table = csv.writer(table, lineterminator="\n")
        self._table.writerow(COLUMNS)
        self._objects, self._separator = objects, ""
        self._categories = categories
        names = [{"id": number, "name": name} for number, name in categories]
        head = {"info": {"description": DESCRIPTION}, "categories": names, "frames": []}
        objects.write(json.dumps(head).removesuffix("]}"))

    def write(self, prediction: FramePrediction, picture: Picture) -> None:
        self._video.write(picture, prediction.time)
        rows = coco_rows(prediction.detections, prediction.frame, self._categories)
        for track, row in zip(prediction.tracks, rows, strict=True):
            x, y, width, height = row["bbox"]
            box = (f"{value:.2f}" for value in (x, y, x + width, y + height))
            texts = [prediction.frame, f"{prediction.time:.4f}", track, row["category_name"], f"{row['score']:.4f}"]
            self._table.writerow([*texts, *box, f"{row['area']:g}"])
            row["track_id"] = track
            del row["image_id"]
        height, width = prediction.pixels.shape[:2]
        frame = {"frame": prediction.frame, "time": prediction.time, "height": height, "width": width, "objects": rows}
        self._objects.write(f"{self._separator}\n{json.dumps(frame)}")
        self._separator = ","

    def close(self) -> None:
        self._video.close()
        self._objects.write("\n]}\n")


@contextmanager
def _files(paths: Sequence[Path], rate: Fraction, categories: list[tuple[int, str]]) -> Iterator[_VideoFiles]:
    """Three files that appear under their names when they are complete; none after an error."""
    unfinished = [path.with_name(f".{path.name}.{os.getpid()}{UNFINISHED_SUFFIX}") for path in paths]
    is_new = not paths[0].parent.exists()
    try:
        paths[0].parent.mkdir(parents=True, exist_ok=True)
        with (
            VideoWriter(unfinished[0], rate) as video,
            unfinished[1].open("w", encoding="utf-8", newline="") as table,
            unfinished[2].open("w", encoding="utf-8") as objects,
        ):
            files = _VideoFiles(video, table, objects, categories)
            yield files
            files.close()
        if unfinished[0].exists():  # without a frame there is no video
            for path, final in zip(unfinished, paths, strict=True):
                os.replace(path, final)
    finally:
        for path in unfinished:
            path.unlink(missing_ok=True)
        if is_new:
            remove_if_empty(paths[0].parent)


class VideoWriter:
    """Writes pictures as an MP4 file with H.264 in yuv420p, which browsers play.

    Sides become even by repeating the last column or row. The file is made with the first picture.

    Args:
        path: of the file.
        rate: frames per second; the time of each picture may differ from it.
    """

    def __init__(self, path: Path, rate: Fraction) -> None:
        self._path, self._rate = path, rate
        self._container: Any = None
        self._stream: Any = None
        self._last = -1  # time of the last picture in ticks

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, picture: Picture, time: float) -> None:
        """Append a picture; one of another size is resized to that of the first.

        Args:
            picture: (H, W, 3).
            time: in seconds, not below that of the picture before.
        """
        import av

        picture = np.pad(picture, ((0, picture.shape[0] % 2), (0, picture.shape[1] % 2), (0, 0)), mode="edge")
        if self._container is None:
            self._open(picture.shape[1], picture.shape[0])
        size = (self._stream.width, self._stream.height)
        if picture.shape[1::-1] != size:
            picture = np.asarray(Image.fromarray(picture).resize(size))
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        self._last = max(round(time * TICKS), self._last + 1)
        frame.pts, frame.time_base = self._last, Fraction(1, TICKS)
        frame.duration = round(TICKS / self._rate)
        self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Complete the file."""
        if self._container is not None:
            self._container.mux(self._stream.encode(None))
            self._container.close()
            self._container = None

    def _open(self, width: int, height: int) -> None:
        import av

        if ENCODER not in av.codecs_available:
            raise UserError(f"this PyAV has no encoder {ENCODER} for MP4. Install its wheel: `{INSTALL_VIDEO}`.")
        self._container = av.open(str(self._path), "w", format="mp4", options={"movflags": "+faststart"})
        self._stream = self._container.add_stream(ENCODER, rate=self._rate, options=QUALITY)
        self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "yuv420p"
        self._stream.codec_context.time_base = Fraction(1, TICKS)

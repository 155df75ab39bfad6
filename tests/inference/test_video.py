"""Videos of moving digits: frames, numbers, and the written files."""

import csv
import json
import sys
import threading
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from mrcnn_zoo.cli.main import run_command
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.evaluation.limits import DetectionTally
from mrcnn_zoo.inference import Predictor
from mrcnn_zoo.inference.video import Frame, LatestFrames, Video, is_camera, is_video
from mrcnn_zoo.inference.video_files import VideoWriter, check_video_outputs, predict_video
from mrcnn_zoo.inspection.canvas import distinct_color
from mrcnn_zoo.ops import rle
from support.videos import digit_frames, line, write_video

WEIGHTS = "zoo://Quickstart/mask_rcnn_R_18_FPN_digits"
COUNT = 16
ABSENT = (7, 8)  # frames without the 0
PATHS = {
    0: [None if index in ABSENT else place for index, place in enumerate(line((10, 88), (80, 88), COUNT))],
    3: line((5, 4), (90, 8), COUNT),
    7: line((95, 34), (5, 30), COUNT),  # crosses the 3
}


@pytest.fixture(scope="module")
def moving(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of three digits, 128 x 128 pixels, 10 frames per second."""
    return write_video(tmp_path_factory.mktemp("video") / "moving.mp4", digit_frames(PATHS))


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor(WEIGHTS, device="cpu")


@pytest.fixture(scope="module")
def written(moving: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the command has written."""
    output = tmp_path_factory.mktemp("output")
    assert run_command("predict", [str(moving), "--weights", WEIGHTS, "--output", str(output), "MODEL.DEVICE=cpu"]) == 0
    return output


def read_rows(output: Path) -> list[dict[str, str]]:
    with (output / "moving.csv").open() as file:
        return list(csv.DictReader(file))


def frames_of(path: Path) -> list[Frame]:
    with Video(path) as video:
        return list(video.frames())


def test_each_digit_has_one_number_while_it_crosses_another_and_after_it_was_absent(written: Path) -> None:
    rows = read_rows(written)
    track_of = {}
    for name, places in PATHS.items():
        found = [row for row in rows if row["class"] == str(name)]
        tracks = [row["track"] for row in found]
        track_of[name] = max(set(tracks), key=tracks.count)
        shown = [index for index, place in enumerate(places) if place is not None]
        assert [int(row["frame"]) for row in found if row["track"] == track_of[name]] == shown
        for row in found:
            if row["track"] == track_of[name]:
                place = places[int(row["frame"])]
                assert place is not None
                assert abs(float(row["x1"]) - place[0]) < 5
                assert float(row["time"]) == pytest.approx(int(row["frame"]) / 10, abs=1e-3)
    assert len(set(track_of.values())) == len(PATHS)


def test_json_has_the_objects_of_the_table_with_masks(written: Path) -> None:
    content = json.loads((written / "moving.json").read_text())
    rows = read_rows(written)
    objects = [(frame, item) for frame in content["frames"] for item in frame["objects"]]
    assert [frame["frame"] for frame in content["frames"]] == list(range(COUNT))
    assert len(objects) == len(rows)
    for (frame, item), row in zip(objects, rows, strict=True):
        assert (str(frame["frame"]), str(item["track_id"])) == (row["frame"], row["track"])
        assert item["category_name"] == row["class"]
        assert rle.area(item["segmentation"]) == float(row["area"])


def test_written_video_plays_in_browsers_with_the_rate_of_the_original(written: Path) -> None:
    with av.open(str(written / "moving.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert (stream.frames, stream.average_rate) == (COUNT, 10)
        assert float(stream.duration * stream.time_base) == pytest.approx(COUNT / 10)  # type: ignore[operator]


def chroma(color: NDArray[Any] | Sequence[float]) -> NDArray[np.float64]:
    """The hue of a colour: its direction from grey."""
    offset = np.asarray(color, dtype=np.float64)
    offset = offset - offset.mean()
    return offset / max(float(np.linalg.norm(offset)), 1e-9)


def test_objects_are_drawn_in_the_colours_of_their_numbers(written: Path) -> None:
    rows = read_rows(written)
    numbers = sorted({int(row["track"]) for row in rows})
    hues = np.array([chroma(distinct_color(number - 1)) for number in numbers])
    for frame in frames_of(written / "moving.mp4")[::5]:  # without overlaps of digits
        factor = frame.pixels.shape[0] // 128
        for row in (row for row in rows if int(row["frame"]) == frame.index):
            x1, y1, x2, y2 = (round(float(row[name]) * factor) for name in ("x1", "y1", "x2", "y2"))
            inside = frame.pixels[y1 + 8 : y2 - 8, x1 + 8 : x2 - 8].reshape(-1, 3)
            ink = inside[inside.max(axis=1) > 120].mean(axis=0)  # translucent colour on the digit
            assert numbers[int((hues @ chroma(ink)).argmax())] == int(row["track"])


def test_predictor_yields_the_frames_of_a_video(predictor: Predictor, moving: Path, written: Path) -> None:
    frames = predictor(str(moving))
    assert isinstance(frames, Iterator)
    rows = read_rows(written)
    for index, frame in zip(range(3), frames, strict=False):
        assert (frame.frame, frame.time) == (index, pytest.approx(index / 10))
        assert [str(number) for number in frame.tracks] == [row["track"] for row in rows if row["frame"] == str(index)]
        assert frame.draw().size == (512, 512)


class Interrupting(DetectionTally):
    """Imitates Ctrl-C after three frames."""

    def add(self, image: str, found: Any, *, measured: Any = None) -> None:
        super().add(image, found, measured=measured)
        if self.num_images == 4:
            raise KeyboardInterrupt


def test_interrupted_video_is_complete_up_to_that_frame(predictor: Predictor, moving: Path, tmp_path: Path) -> None:
    result = predict_video(
        predictor.detector, str(moving), tmp_path, score_threshold=0.5, tally=Interrupting(limits=())
    )
    assert result.is_interrupted
    assert result.num_frames == len(frames_of(tmp_path / "moving.mp4")) == 3
    assert len(json.loads((tmp_path / "moving.json").read_text())["frames"]) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["moving.csv", "moving.json", "moving.mp4"]


def grey(count: int, size: tuple[int, int] = (32, 48)) -> list[NDArray[np.uint8]]:
    """Frames of increasing brightness, brighter in their upper left quarter."""
    frames = []
    for index in range(count):
        frame = np.full((*size, 3), 40 + 10 * index, dtype=np.uint8)
        frame[: size[0] // 2, : size[1] // 2] += 60
        frames.append(frame)
    return frames


def test_frames_have_the_pixels_and_times_of_the_file(tmp_path: Path) -> None:
    frames = frames_of(write_video(tmp_path / "video.mkv", grey(5), rate=Fraction(30000, 1001)))
    assert [frame.index for frame in frames] == list(range(5))
    np.testing.assert_allclose([frame.time for frame in frames], np.arange(5) * 1001 / 30000, atol=1e-3)
    for frame, expected in zip(frames, grey(5), strict=True):
        np.testing.assert_allclose(frame.pixels[4:12, 4:20].mean(), expected[4:12, 4:20].mean(), atol=4)


@pytest.mark.parametrize(("rotation", "turns"), [(90, 1), (-90, 3), (180, 2)])
def test_rotated_video_is_read_upright(tmp_path: Path, rotation: int, turns: int) -> None:
    (frame, _) = frames_of(write_video(tmp_path / "video.mp4", grey(2), rotation=rotation))
    expected = np.rot90(grey(1)[0], turns)
    assert frame.pixels.shape == expected.shape
    np.testing.assert_allclose(frame.pixels.astype(int), expected, atol=25)
    assert np.abs(frame.pixels.astype(int) - expected).mean() < 5


def test_times_of_a_variable_frame_rate_are_kept(tmp_path: Path) -> None:
    times = [0.0, 0.04, 0.5, 0.52, 2.0]
    original = frames_of(write_video(tmp_path / "video.mp4", grey(5), times=times))
    np.testing.assert_allclose([frame.time for frame in original], times, atol=1e-3)
    with VideoWriter(tmp_path / "again.mp4", Fraction(10)) as writer:
        for frame in original:
            writer.write(frame.pixels, frame.time)
    np.testing.assert_allclose([frame.time for frame in frames_of(tmp_path / "again.mp4")], times, atol=1e-3)


@pytest.mark.parametrize("count", [1, 3])
def test_odd_sides_are_padded(tmp_path: Path, count: int) -> None:
    with VideoWriter(tmp_path / "video.mp4", Fraction(25)) as writer:
        for index in range(count):
            writer.write(np.full((33, 47, 3), 90, dtype=np.uint8), index / 25)
    frames = frames_of(tmp_path / "video.mp4")
    assert [frame.pixels.shape for frame in frames] == [(34, 48, 3)] * count
    np.testing.assert_allclose(frames[0].pixels, 90, atol=3)


def test_alpha_is_dropped(tmp_path: Path) -> None:
    pixels = np.full((32, 48, 4), (200, 100, 50, 10), dtype=np.uint8)
    (frame,) = frames_of(write_video(tmp_path / "video.mov", [pixels], codec="qtrle", pixel_format="argb"))
    np.testing.assert_allclose(frame.pixels, np.broadcast_to((200, 100, 50), (32, 48, 3)), atol=2)


def write_sound(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("aac", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono")
        sound.sample_rate = 8000
        container.mux([*stream.encode(sound), *stream.encode(None)])
    return path


def test_unreadable_videos_are_refused_with_the_cause(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "whole.mp4", grey(5))
    empty, noise, cut = (tmp_path / f"{name}.mp4" for name in ("empty", "noise", "cut"))
    empty.touch()
    noise.write_bytes(bytes(range(256)) * 20)
    cut.write_bytes(whole.read_bytes()[:200])
    causes = {
        tmp_path / "missing.mp4": "no such video file",
        empty: "is empty",
        noise: "cannot be read as a video",
        cut: "cannot be read as a video",
        write_sound(tmp_path / "sound.mp4"): "no video stream",
    }
    for path, cause in causes.items():
        with pytest.raises(UserError, match=rf"{path.name}.*{cause}"):
            frames_of(path)


def test_damaged_packets_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_video(tmp_path / "video.avi", grey(8), codec="mjpeg", pixel_format="yuvj420p")
    content = bytearray(path.read_bytes())
    starts = [place for place in range(len(content) - 2) if content[place : place + 3] == b"\xff\xd8\xff"]
    assert len(starts) == 8
    content[starts[3] : starts[4] - 8] = bytes(starts[4] - 8 - starts[3])
    path.write_bytes(content)
    assert len(frames_of(path)) == 7
    assert "1 damaged packet" in caplog.text


def test_pyav_is_named_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "video.mp4", grey(1))
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match=r"pip install \"mrcnn_zoo\[video\]\""):
        Video(path)


def frame_of(index: int) -> Frame:
    return Frame(f"frame {index}", index, float(index), np.zeros((2, 2, 3), dtype=np.uint8))


def test_slow_consumer_of_a_camera_gets_the_latest_frame_and_the_others_are_dropped() -> None:
    may_go_on, all_given = threading.Event(), threading.Event()

    def camera() -> Iterator[Frame]:
        yield frame_of(0)
        may_go_on.wait(10)
        for index in range(1, 6):
            yield frame_of(index)
        all_given.set()

    frames = LatestFrames(camera())
    assert next(frames).index == 0
    may_go_on.set()  # five frames arrive while frame 0 is processed
    assert all_given.wait(10)
    assert [frame.index for frame in frames] == [5]
    assert frames.num_dropped == 4
    frames.close()


def test_fast_consumer_of_a_camera_gets_all_frames() -> None:
    taken = threading.Semaphore(1)

    def camera() -> Iterator[Frame]:
        for index in range(5):
            assert taken.acquire(timeout=10)
            yield frame_of(index)

    frames = LatestFrames(camera())
    found = []
    for frame in frames:
        found.append(frame.index)
        taken.release()
    assert found == [0, 1, 2, 3, 4]
    assert frames.num_dropped == 0


def test_error_of_a_camera_is_raised_in_the_consumer() -> None:
    def camera() -> Iterator[Frame]:
        yield frame_of(0)
        raise UserError("camera 0 is unplugged")

    with pytest.raises(UserError, match="unplugged"):
        list(LatestFrames(camera()))


def test_digits_name_a_camera_where_no_such_file_exists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_camera("0")
    assert is_video("0")
    assert is_video("clip.MP4")
    assert not is_video("image.png")
    Path("0").mkdir()
    assert not is_camera("0")
    if sys.platform.startswith("linux") and not Path("/dev/video97").exists():
        with pytest.raises(UserError, match="no camera 97"):
            Video("97")


def test_command_refuses_what_does_not_fit_videos(
    moving: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--weights", WEIGHTS, "--output", str(tmp_path)]
    assert run_command("predict", [str(moving), *options, "--format", "coco"]) == 2
    assert "--format is for images" in capsys.readouterr().err
    assert run_command("predict", [str(PATHS[3][0]), str(moving), *options, "--format", "coco"]) == 2
    assert list(tmp_path.iterdir()) == []  # before the images
    with pytest.raises(UserError, match="would be overwritten"):
        check_video_outputs([str(moving)], moving.parent, overwrite=True)
    with pytest.raises(UserError, match="would both be written"):
        check_video_outputs(["a/clip.mp4", "b/clip.mov"], tmp_path, overwrite=True)
    (tmp_path / "moving.csv").write_text("mine")
    with pytest.raises(UserError, match=r"moving\.csv"):
        check_video_outputs([str(moving)], tmp_path, overwrite=False)


def test_command_goes_on_after_an_unreadable_video_and_replaces_its_own_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = write_video(tmp_path / "short.mp4", digit_frames({3: PATHS[3][:2]}))
    (tmp_path / "empty.mp4").touch()
    names = [str(tmp_path / "empty.mp4"), str(short)]
    options = ["--weights", WEIGHTS, "--output", str(tmp_path / "out"), "MODEL.DEVICE=cpu"]
    for _ in range(2):
        assert run_command("predict", [*names, *options]) == 1
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["short.csv", "short.json", "short.mp4"]
        captured = capsys.readouterr()
        assert "short.mp4: 2 frames, 1 object (1 x 3)" in captured.out
        assert "error: 1 video could not be read" in captured.err

"""What a `Predictor` is called with: files, folders, addresses, arrays, tensors, iterators; and threads."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from torch import nn

from mrcnn_zoo.config import load_config
from mrcnn_zoo.data import build_eval_mapper
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.inference import Prediction, Predictor
from mrcnn_zoo.inference.image_detector import ImageDetector
from mrcnn_zoo.inference.image_inputs import LoadedImage
from mrcnn_zoo.structures import Detections, Sample
from support.small_models import save_tiny_checkpoint


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_checkpoint(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def predictor(weights: Path) -> Predictor:
    return Predictor(weights, score_threshold=0.0)


@pytest.fixture(scope="module")
def of_pages_and_bgr(weights: Path) -> Predictor:
    return Predictor(weights, score_threshold=0.0, channel_order="BGR", overrides=["INPUT.PAGES=images"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Colour images a.png, b.png and c.png, and the text notes.txt."""
    place = tmp_path_factory.mktemp("images")
    for number, name in enumerate("cab"):
        pixels = np.random.default_rng(number).integers(0, 60, (60, 80, 3), dtype=np.uint8)
        pixels[10:40, 20 + 10 * number : 60] += np.array([150, 90, 10], np.uint8)
        Image.fromarray(pixels).save(place / f"{name}.png")
    (place / "notes.txt").write_text("no image")
    return place


def assert_same(found: Prediction, expected: Prediction) -> None:
    assert torch.equal(found.boxes, expected.boxes)
    assert torch.equal(found.scores, expected.scores)
    assert len(found) == 6


def test_folder_and_pattern_give_a_list_in_order_of_names(predictor: Predictor, folder: Path) -> None:
    for place in (folder, str(folder / "*.png"), str(folder / "[abc].png")):
        found = predictor(place)
        assert [Path(prediction.name).name for prediction in found] == ["a.png", "b.png", "c.png"]
        assert [prediction.image_id for prediction in found] == [1, 2, 3]
        assert_same(found[2], predictor(folder / "c.png"))
    with pytest.raises(UserError, match=r"the pattern .*x\*\.png matches nothing"):
        predictor(str(folder / "x*.png"))


def test_list_may_mix_all_kinds(predictor: Predictor, folder: Path) -> None:
    pixels = np.array(Image.open(folder / "a.png"))
    found = predictor([folder, torch.from_numpy(pixels).permute(2, 0, 1), folder / "b.png", pixels])
    assert [Path(prediction.name).name for prediction in found] == [
        "a.png",
        "b.png",
        "c.png",
        "image 4",
        "b.png",
        "image 6",
    ]
    for number in (3, 5):
        assert_same(found[number], found[0])
    assert_same(found[4], found[1])


def test_generator_gives_an_iterator_that_reads_images_when_they_are_needed(predictor: Predictor, folder: Path) -> None:
    taken: list[str] = []

    def paths() -> Iterator[Path]:
        for name in ("a.png", "missing.png"):
            taken.append(name)
            yield folder / name

    found = predictor(paths())
    assert isinstance(found, Iterator)
    assert taken == []
    assert_same(next(found), predictor(folder / "a.png"))
    assert taken == ["a.png"]
    with pytest.raises(UserError, match=r"missing\.png: the image file is missing"):
        next(found)
    for place in (folder, str(folder), [folder]):
        assert [prediction.image_id for prediction in predictor.stream(place)] == [1, 2, 3]


def test_tensors_are_channels_first_bytes_or_floats_to_1(predictor: Predictor, folder: Path) -> None:
    expected = predictor(folder / "a.png")
    bytes_ = torch.from_numpy(np.array(Image.open(folder / "a.png"))).permute(2, 0, 1)
    for tensor in (bytes_, bytes_ / 255, bytes_.double() / 255, (bytes_ / 255).requires_grad_()):
        assert_same(predictor(tensor), expected)
    grey = np.asarray(Image.open(folder / "a.png").convert("L"))
    for tensor in (torch.from_numpy(grey.copy()), torch.from_numpy(grey.copy())[None] / 255):
        assert_same(predictor(tensor), predictor(grey))
    for wrong, words in (
        (bytes_.float(), r"values from 0 to \d+; floats are from 0 to 1"),
        (bytes_.long(), r"image 1 is a tensor of torch\.int64; an image is uint8"),
        (bytes_[None], r"shape \(1, 3, 60, 80\).* Give a batch as list\(tensor\)"),
        (bytes_.permute(1, 2, 0), "looks like channels last; give"),
    ):
        with pytest.raises(UserError, match=words):
            predictor(wrong)


def test_channel_order_bgr_reverses_arrays_and_tensors_alone(
    predictor: Predictor, of_pages_and_bgr: Predictor, folder: Path
) -> None:
    expected = predictor(folder / "a.png")
    bgr = np.asarray(Image.open(folder / "a.png"))[..., ::-1]
    bgra = np.concatenate((bgr, np.full((60, 80, 1), 7, np.uint8)), axis=2)
    for image in (
        bgr,
        bgra,
        torch.from_numpy(bgr.copy()).permute(2, 0, 1),
        folder / "a.png",
        Image.open(folder / "a.png"),
    ):
        found = of_pages_and_bgr(image)
        assert_same(found, expected)
        np.testing.assert_array_equal(found.pixels, expected.pixels)  # RGB
    assert not torch.equal(predictor(bgr).scores, expected.scores)
    with pytest.raises(UserError, match="channel_order = 'bgr' must be one of RGB, BGR"):
        Predictor(channel_order="bgr")


def test_sixteen_bit_arrays_are_read_as_files(predictor: Predictor, folder: Path, tmp_path: Path) -> None:
    deep = np.asarray(Image.open(folder / "a.png").convert("L")).astype(np.uint16) * 200 + 7
    Image.fromarray(deep).save(tmp_path / "deep.png")
    expected = predictor(tmp_path / "deep.png")
    for image in (deep, torch.from_numpy(deep)):
        assert_same(predictor(image), expected)
    assert expected.pixels.dtype == np.uint16


def test_pages_of_a_stack_follow_input_pages(
    predictor: Predictor, of_pages_and_bgr: Predictor, folder: Path, tmp_path: Path
) -> None:
    pages = [np.asarray(Image.open(folder / name).convert("L")) for name in ("a.png", "b.png")]
    tifffile.imwrite(tmp_path / "stack.tif", np.stack(pages), photometric="minisblack")
    with pytest.raises(UserError, match=r"has 2 pages .* Set INPUT\.PAGES to images"):
        predictor(tmp_path / "stack.tif")
    for place in (tmp_path / "stack.tif", tmp_path, [tmp_path / "stack.tif"]):
        found = of_pages_and_bgr(place)
        assert [prediction.name for prediction in found] == [f"{tmp_path / 'stack.tif'}#{page}" for page in (1, 2)]
        for prediction, page in zip(found, pages, strict=True):
            assert_same(prediction, predictor(page))
    assert isinstance(of_pages_and_bgr(folder / "a.png"), Prediction)


@pytest.fixture
def server(folder: Path) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as web:
        thread = threading.Thread(target=web.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{web.server_port}"
        web.shutdown()
        thread.join()


def test_address_is_downloaded_once(
    predictor: Predictor, folder: Path, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MRCNN_ZOO_CACHE", str(tmp_path))
    found = predictor(f"{server}/a.png")
    assert_same(found, predictor(folder / "a.png"))
    assert tmp_path in Path(found.name).parents
    monkeypatch.setenv("MRCNN_ZOO_OFFLINE", "1")
    assert_same(predictor([f"{server}/a.png"])[0], found)


def test_address_without_an_image_is_refused_and_not_kept(
    predictor: Predictor, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MRCNN_ZOO_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"notes\.txt: .*notes\.txt is not an image"):
        predictor(f"{server}/notes.txt")
    assert list(tmp_path.rglob("notes.txt")) == []
    with pytest.raises(UserError, match="the server answers 404"):
        predictor(f"{server}/nothing.png")


class WaitsForTheOther(nn.Module):
    """The first call of `predict` ends while the second runs, which then reports its mode."""

    def __init__(self) -> None:
        super().__init__()
        self.second_runs, self.first_has_ended = threading.Event(), threading.Event()
        self.modes: list[bool] = []

    def predict(self, samples: list[Sample]) -> list[Detections]:
        if samples[0].file_name == "first":
            assert self.second_runs.wait(10)
        else:
            self.second_runs.set()
            assert self.first_has_ended.wait(10)
        self.modes.append(self.training)
        empty = torch.zeros(0)
        return [Detections(sample.original_size, torch.zeros(0, 4), empty, empty.long()) for sample in samples]


def test_thread_that_ends_leaves_the_mode_of_the_others() -> None:
    model = WaitsForTheOther()
    mapper = build_eval_mapper(load_config(None, ["INPUT.MIN_SIZE_TEST", 32]))
    detector = ImageDetector(model, mapper, ("cat",), category_ids=(1,))

    def predict(name: str) -> None:
        list(detector.stream([LoadedImage(name, np.zeros((40, 50, 3), np.uint8))]))
        if name == "first":
            model.first_has_ended.set()

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(predict, ["first", "second"]))
    assert model.modes == [False, False]


def test_threads_get_the_results_of_calls_one_after_the_other(predictor: Predictor) -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 255, (64, 40 + 32 * number, 3), dtype=np.uint8) for number in range(4)]
    expected = [predictor(image) for image in images]
    with ThreadPoolExecutor(4) as pool:
        for found, alone in zip(pool.map(predictor, images), expected, strict=True):
            assert_same(found, alone)


def test_augmented_model_is_in_evaluation_mode_throughout(weights: Path) -> None:
    model = Predictor(weights, overrides=["TEST.AUG.ENABLED=True"]).model
    assert not any(module.training for module in model.modules())

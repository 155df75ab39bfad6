"""Files and addresses that weights come from."""

import functools
import os
import pickle
import threading
from collections import OrderedDict
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch

from mrcnn_zoo.checkpoint.sources import local_path, read_weights
from mrcnn_zoo.errors import UserError

WEIGHTS = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "a.bias": np.float32([1, 2])}


# --- numpy pickles ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_detectron2_pickles_of_every_protocol_are_read(protocol: int, tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    content = {"model": OrderedDict(WEIGHTS), "__author__": "x", "matching_heuristics": True, "scale": np.float32(2)}
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    weights = read_weights(path).weights
    assert {name: value.tolist() for name, value in weights.items()} == {
        "a.weight": [[0, 1, 2], [3, 4, 5]],
        "a.bias": [1, 2],
    }


def test_pickles_of_numpy_1_are_read(tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps({"model": WEIGHTS}, protocol=2).replace(b"numpy._core", b"numpy.core"))
    assert sorted(read_weights(path).weights) == ["a.bias", "a.weight"]


class RunsCommand:
    """Unpickling it with Python's unpickler creates a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.marker}",)


def test_code_in_a_pickle_is_not_run(tmp_path: Path) -> None:
    path, marker = tmp_path / "model.pkl", tmp_path / "marker"
    path.write_bytes(pickle.dumps({"model": {**WEIGHTS, "b": RunsCommand(marker)}}))
    with pytest.raises(UserError, match=r"is refused: it asks to run posix\.system"):
        read_weights(path)
    assert not marker.exists()


def test_codecs_that_do_more_than_encode_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(b"c_codecs\nencode\n(Vtext\nVzlib\ntR.")
    with pytest.raises(UserError, match="'zlib'"):
        read_weights(path)


def test_a_pickle_cut_short_is_a_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps({"model": WEIGHTS})[:100])
    with pytest.raises(UserError, match=r"model\.pkl \(100 bytes\) is cut short or not a pickle"):
        read_weights(path)


# --- safetensors ------------------------------------------------------------------------------------------------------


def test_safetensors_are_read(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch", reason="needs the optional package safetensors")
    path = tmp_path / "model.safetensors"
    safetensors.save_file({"a.weight": torch.ones(2)}, str(path))
    assert read_weights(path).weights["a.weight"].tolist() == [1, 1]
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(UserError, match=r"model\.safetensors .* is cut short"):
        read_weights(path)


@pytest.mark.parametrize("name", ["model.pth", "model.pkl"])
def test_a_missing_file_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"{name} do(es)? not exist"):
        read_weights(tmp_path / name)


# --- downloads --------------------------------------------------------------------------------------------------------


class QuietHandler(SimpleHTTPRequestHandler):
    """Serves a folder without logging."""

    def log_message(self, format: str, *args: object) -> None:
        pass


class BreakingHandler(BaseHTTPRequestHandler):
    """Promises more bytes than it sends."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"half")

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("FVCORE_CACHE", str(folder))
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    return folder


@pytest.fixture
def served(tmp_path: Path, cache: Path) -> Iterator[tuple[str, Path]]:  # noqa: ARG001
    """The address of a local server, and the folder that it serves."""
    folder = tmp_path / "served"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(QuietHandler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", folder
    server.shutdown()
    server.server_close()


def cached_files(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock")


def test_a_url_is_downloaded_once(served: tuple[str, Path], cache: Path) -> None:
    address, folder = served
    torch.save({"a": torch.ones(2)}, folder / "model.pth")
    assert read_weights(f"{address}/model.pth").weights["a"].tolist() == [1, 1]
    (folder / "model.pth").unlink()
    assert read_weights(f"{address}/model.pth").weights["a"].tolist() == [1, 1]
    assert cached_files(cache) == ["model.pth"]


def test_equal_paths_of_two_hosts_are_two_files(served: tuple[str, Path]) -> None:
    address, folder = served
    torch.save({"a": torch.ones(2)}, folder / "model.pth")
    first = local_path(f"{address}/model.pth")
    second = local_path(f"{address.replace('127.0.0.1', 'localhost')}/model.pth")
    assert first != second


def test_a_url_that_is_not_there_is_a_clear_error(served: tuple[str, Path], cache: Path) -> None:
    with pytest.raises(UserError, match=r"cannot download http://.*/missing\.pth .*404"):
        read_weights(f"{served[0]}/missing.pth")
    assert cached_files(cache) == []


def test_a_broken_transfer_leaves_no_file(cache: Path) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), BreakingHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with pytest.raises(UserError, match="cannot download"):
        read_weights(f"http://127.0.0.1:{server.server_port}/model.pth")
    server.shutdown()
    server.server_close()
    assert cached_files(cache) == []


def test_a_download_that_is_no_checkpoint_is_not_kept(served: tuple[str, Path], cache: Path) -> None:
    address, folder = served
    (folder / "model.pth").write_text("<!DOCTYPE html><html>Log in to the network</html>")
    with pytest.raises(UserError, match="not a PyTorch file"):
        read_weights(f"{address}/model.pth")
    assert cached_files(cache) == []


def test_detectron2_addresses_find_its_server_and_its_cache(cache: Path) -> None:
    # The file lies where Detectron2 itself would have put it, so nothing is fetched.
    place = cache / "detectron2/ImageNetPretrained/model.pth"
    place.parent.mkdir(parents=True)
    torch.save({"a": torch.ones(2)}, place)
    assert local_path("detectron2://ImageNetPretrained/model.pth") == place


def test_unknown_kinds_of_address_are_refused() -> None:
    with pytest.raises(UserError, match=r"catalog://x: unknown kind of address; known are detectron2://"):
        read_weights("catalog://x")

"""Downloads, against a real server on this machine that fails in every way that servers do."""

import hashlib
import json
import multiprocessing
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from mrcnn_zoo.checkpoint import read_weights
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.model_zoo import download, transfer
from mrcnn_zoo.model_zoo.download import cached_path, local_path, path_manager
from mrcnn_zoo.model_zoo.transfer import Downloader

CONTENT = bytes(range(256)) * 40
MD5, SHA256 = hashlib.md5(CONTENT).hexdigest(), hashlib.sha256(CONTENT).hexdigest()
HALF = 5000  # bytes; where connections break
NAME = "model.pth"

Answer = Callable[[BaseHTTPRequestHandler], None]
Fetch = Callable[..., Path]


@dataclass
class Server:
    """Answers from a list first, then with its file, by ranges where requested."""

    content: bytes = CONTENT
    tag: str = '"first"'
    answers: list[Answer] = field(default_factory=list)
    ranges: list[str] = field(default_factory=list)  # of every request: its Range header, or ""
    address: str = ""

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        self.ranges.append(handler.headers.get("Range", ""))
        (self.answers.pop(0) if self.answers else self.file())(handler)

    def file(self, *, sends: int | None = None, has_ranges: bool = True, tag: str | None = None) -> Answer:
        """The file; the connection breaks after some bytes."""

        def answer(handler: BaseHTTPRequestHandler) -> None:
            requested, version = handler.headers.get("Range"), self.tag if tag is None else tag
            is_part = has_ranges and requested is not None and handler.headers.get("If-Range") == version
            start = int(requested.removeprefix("bytes=").removesuffix("-")) if is_part and requested else 0
            if start >= len(self.content):
                send(handler, 416, b"", {"Content-Range": f"bytes */{len(self.content)}"})
                return
            headers = {"ETag": version} if version else {}
            if is_part:
                headers["Content-Range"] = f"bytes {start}-{len(self.content) - 1}/{len(self.content)}"
            send(handler, 206 if is_part else 200, self.content[start:], headers, sends=sends)

        return answer


def send(
    handler: BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str], *, sends: int | None = None
) -> None:
    handler.send_response(status)
    for name, value in {"Content-Length": str(len(body)), **headers}.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body if sends is None else body[:sends])
    handler.close_connection = True


def status(code: int, headers: dict[str, str] | None = None, body: bytes = b"") -> Answer:
    return lambda handler: send(handler, code, body, headers or {})


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    proxies = [name for name in os.environ if name.lower().endswith("_proxy")]
    for name in (*proxies, download.MIRROR_VARIABLE, download.OFFLINE_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "cache"
    monkeypatch.setenv(download.CACHE_VARIABLE, str(folder))
    return folder


@pytest.fixture
def server(cache: Path) -> Iterator[Server]:  # noqa: ARG001
    script = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            script.answer(self)

        def log_message(self, format: str, *args: object) -> None:
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    script.address = f"http://127.0.0.1:{listening.server_port}"
    yield script
    listening.shutdown()
    listening.server_close()


@pytest.fixture
def waits() -> list[float]:
    """The seconds that `fetch` would have slept."""
    return []


@pytest.fixture
def fetch(waits: list[float]) -> Fetch:
    def fetch(url: str, attempts: int = 5) -> Path:
        return local_path(url, paths=path_manager(Downloader(attempts=attempts, sleep=waits.append)))

    return fetch


def files_in(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock")


# --- it works ---------------------------------------------------------------------------------------------------------


def test_file_is_downloaded_once(server: Server, fetch: Fetch, waits: list[float]) -> None:
    path = fetch(f"{server.address}/{NAME}")
    assert path.read_bytes() == CONTENT
    assert fetch(f"{server.address}/{NAME}") == path
    assert server.ranges == [""]
    assert waits == []


def test_weights_at_an_address_are_read(server: Server, tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / NAME)
    server.content = (tmp_path / NAME).read_bytes()
    assert read_weights(f"{server.address}/{NAME}").weights["a"].tolist() == [1, 1]


def test_redirects_are_followed(server: Server, fetch: Fetch) -> None:
    server.answers = [status(302, {"Location": "/elsewhere"})]
    assert fetch(f"{server.address}/{NAME}").read_bytes() == CONTENT


def test_two_processes_download_once(server: Server, cache: Path) -> None:
    context = multiprocessing.get_context("fork")
    began = context.Semaphore(0)
    address = f"{server.address}/{NAME}"

    def wait_then_serve(handler: BaseHTTPRequestHandler) -> None:
        assert all(began.acquire(timeout=60) for _ in range(2))
        server.file()(handler)

    def fetch_in_process() -> None:
        began.release()
        local_path(address)

    server.answers = [wait_then_serve]
    processes = [context.Process(target=fetch_in_process) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=60)
        assert process.exitcode == 0
    assert cached_path(address).read_bytes() == CONTENT
    assert len(server.ranges) == 1
    assert files_in(cache) == [NAME, f"{NAME}.sha256"]


# --- breaks and failures that pass ------------------------------------------------------------------------------------


def test_broken_transfer_is_continued(server: Server, fetch: Fetch, waits: list[float]) -> None:
    server.answers = [server.file(sends=HALF)]
    assert fetch(f"{server.address}/{NAME}").read_bytes() == CONTENT
    assert server.ranges == ["", f"bytes={HALF}-"]
    assert waits == [1]


def test_later_call_continues_the_part_of_an_earlier_one(server: Server, fetch: Fetch, cache: Path) -> None:
    server.answers = [server.file(sends=HALF)]
    with pytest.raises(
        UserError, match=r"broke after 5,000 of 10,240 bytes; 5,000 bytes are kept in .*model\.pth\.part"
    ):
        fetch(f"{server.address}/{NAME}", attempts=1)
    assert files_in(cache) == [f"{NAME}.part", f"{NAME}.part.json"]
    assert fetch(f"{server.address}/{NAME}").read_bytes() == CONTENT
    assert server.ranges == ["", f"bytes={HALF}-"]
    assert files_in(cache) == [NAME, f"{NAME}.sha256"]


def test_changed_file_is_downloaded_from_the_start(server: Server, fetch: Fetch) -> None:
    server.answers = [server.file(sends=HALF)]
    with pytest.raises(UserError):
        fetch(f"{server.address}/{NAME}", attempts=1)
    server.content, server.tag = CONTENT[::-1], '"second"'
    assert fetch(f"{server.address}/{NAME}").read_bytes() == CONTENT[::-1]


def test_part_from_another_address_is_not_continued(server: Server, fetch: Fetch, cache: Path) -> None:
    server.answers = [server.file(sends=HALF)]
    with pytest.raises(UserError):
        fetch(f"{server.address}/{NAME}", attempts=1)
    record = next(cache.rglob("*.part.json"))
    record.write_text(json.dumps({"url": "http://other/model.pth", "validator": server.tag}))
    assert fetch(f"{server.address}/{NAME}").read_bytes() == CONTENT
    assert server.ranges == ["", ""]


def test_server_without_ranges_sends_the_whole_file_again(server: Server, fetch: Fetch) -> None:
    server.answers = [server.file(sends=HALF), server.file(has_ranges=False)]
    assert fetch(f"{server.address}/{NAME}").read_bytes() == CONTENT


@pytest.mark.parametrize("tag", ["", 'W/"weak"'])
def test_without_a_strong_validator_nothing_is_continued(tag: str, server: Server, fetch: Fetch, cache: Path) -> None:
    server.answers = [server.file(sends=HALF, tag=tag)]
    with pytest.raises(UserError) as caught:
        fetch(f"{server.address}/{NAME}", attempts=1)
    assert "kept" not in str(caught.value)
    assert files_in(cache) == []
    server.answers = [server.file(sends=HALF, tag=tag)]
    assert fetch(f"{server.address}/{NAME}").read_bytes() == CONTENT
    assert server.ranges == ["", "", ""]


def test_other_range_than_requested_is_not_appended(server: Server, fetch: Fetch) -> None:
    wrong = status(206, {"Content-Range": f"bytes 10-{len(CONTENT) - 1}/{len(CONTENT)}"}, CONTENT[10:])
    server.answers = [server.file(sends=HALF), wrong]
    assert fetch(f"{server.address}/{NAME}").read_bytes() == CONTENT
    assert server.ranges == ["", f"bytes={HALF}-", ""]


def test_complete_part_is_accepted(server: Server, fetch: Fetch, cache: Path) -> None:
    server.answers = [server.file(sends=HALF)]
    with pytest.raises(UserError):
        fetch(f"{server.address}/{NAME}", attempts=1)
    next(cache.rglob("*.part")).write_bytes(CONTENT)  # as if the process had been killed just before it was renamed
    assert fetch(f"{server.address}/{NAME}").read_bytes() == CONTENT
    assert server.ranges[-1] == f"bytes={len(CONTENT)}-"


@pytest.mark.parametrize("code", [429, 500, 502, 503, 504])
def test_temporary_failures_are_retried(code: int, server: Server, fetch: Fetch, waits: list[float]) -> None:
    server.answers = [status(code), status(code)]
    assert fetch(f"{server.address}/{NAME}").read_bytes() == CONTENT
    assert waits == [1, 2]


def test_retry_after_header_sets_the_wait(server: Server, fetch: Fetch, waits: list[float]) -> None:
    server.answers = [status(503, {"Retry-After": "7"}), status(503, {"Retry-After": "86400"})]
    fetch(f"{server.address}/{NAME}")
    assert waits == [7, transfer.LONGEST_WAIT]


def test_progress_resets_the_number_of_tries(server: Server, fetch: Fetch, waits: list[float]) -> None:
    server.answers = [server.file(sends=1000) for _ in range(8)]
    assert fetch(f"{server.address}/{NAME}", attempts=2).read_bytes() == CONTENT
    assert waits == [1] * 8


# --- failures that stay -----------------------------------------------------------------------------------------------


def test_repeated_failures_end_the_download(server: Server, fetch: Fetch, waits: list[float], cache: Path) -> None:
    server.answers = [status(503)] * 9
    with pytest.raises(UserError, match=r"cannot download http://.*: the server answers 503 .*Check the connection"):
        fetch(f"{server.address}/{NAME}")
    assert waits == [1, 2, 4, 8]
    assert files_in(cache) == []


@pytest.mark.parametrize("code", [401, 403, 404, 410])
def test_missing_file_is_requested_once(code: int, server: Server, fetch: Fetch, cache: Path) -> None:
    server.answers = [status(code)]
    with pytest.raises(UserError, match=f"the server answers {code} .*Check the address"):
        fetch(f"{server.address}/{NAME}")
    assert len(server.ranges) == 1
    assert files_in(cache) == []


PAGE = b"\n<!DOCTYPE html><html>Log in to the network</html>"


@pytest.mark.parametrize(("kind", "body"), [("text/html; charset=utf-8", CONTENT), ("application/octet-stream", PAGE)])
def test_web_page_instead_of_the_file_is_refused(
    kind: str, body: bytes, server: Server, fetch: Fetch, cache: Path
) -> None:
    server.answers = [status(302, {"Location": "/login"}), status(200, {"Content-Type": kind}, body)]
    with pytest.raises(UserError, match=r"/login answers with a web page, not with the file\. .*open it in a browser"):
        fetch(f"{server.address}/{NAME}")
    assert len(server.ranges) == 2
    assert files_in(cache) == []


def test_empty_file_is_refused(server: Server, fetch: Fetch, cache: Path) -> None:
    server.content = b""
    server.answers = [status(200)]
    with pytest.raises(UserError, match="the server sent an empty file"):
        fetch(f"{server.address}/{NAME}")
    assert files_in(cache) == []


def test_redirects_in_a_circle_are_a_clear_error(server: Server, fetch: Fetch, cache: Path) -> None:
    server.answers = [status(302, {"Location": f"/{NAME}"})] * 50
    with pytest.raises(UserError, match=r"the server answers 302 .*infinite loop"):
        fetch(f"{server.address}/{NAME}")
    assert files_in(cache) == []


def test_too_little_disk_space_is_refused_before_writing(
    server: Server, fetch: Fetch, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9 - 100, 100))
    with pytest.raises(UserError, match=r"the disk is full: 10,240 bytes are missing, 100 are free.*MRCNN_ZOO_CACHE"):
        fetch(f"{server.address}/{NAME}")
    assert files_in(cache) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device that is always full")
def test_disk_that_fills_up_is_a_clear_error(server: Server, fetch: Fetch) -> None:
    target = cached_path(f"{server.address}/{NAME}")
    target.parent.mkdir(parents=True)
    target.with_name(f"{NAME}.part").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"model\.pth\.part cannot be written: No space left on device\. Make room"):
        fetch(f"{server.address}/{NAME}")
    assert not target.exists()
    assert len(server.ranges) == 1


# --- checksums --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        f"detectron2://COCO-Detection/x/1/model_final_{MD5[:6]}.pkl",
        f"https://dl.fbaipublicfiles.com/detectron2/x/model_final_{MD5[:6]}.pkl",
        f"https://download.pytorch.org/models/maskrcnn-{SHA256[:8]}.pth",
    ],
)
def test_checksum_in_a_name_is_checked(
    url: str, server: Server, fetch: Fetch, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(download.MIRROR_VARIABLE, f"{server.address}/mirror/")
    assert fetch(url).read_bytes() == CONTENT
    shutil.rmtree(cache)
    server.content = CONTENT[::-1]
    with pytest.raises(UserError, match=r"not the file that was published: its (md5|sha256) is .* should begin with"):
        fetch(url)
    assert files_in(cache) == []
    assert len(server.ranges) == 2


def test_download_that_is_no_checkpoint_is_not_kept(server: Server, cache: Path) -> None:
    server.content = b"no weights"
    with pytest.raises(UserError, match="not a PyTorch file"):
        read_weights(f"{server.address}/{NAME}")
    assert NAME not in files_in(cache)


def test_digits_in_the_names_of_other_publishers_may_be_dates(server: Server, fetch: Fetch) -> None:
    for name in ("model_final_202406.pkl", "mask_rcnn-20240612.pth"):
        assert fetch(f"{server.address}/{name}").read_bytes() == CONTENT


def test_mixed_versions_are_downloaded_again(server: Server, fetch: Fetch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(download.MIRROR_VARIABLE, server.address)
    server.answers = [status(200, {"ETag": server.tag, "Content-Length": str(len(CONTENT))}, b"\0" * HALF)]
    assert fetch(f"detectron2://x/model_final_{MD5[:6]}.pkl").read_bytes() == CONTENT
    assert server.ranges == ["", f"bytes={HALF}-", ""]


# --- mirror and offline -----------------------------------------------------------------------------------------------


def test_mirror_replaces_publishers_only(server: Server, fetch: Fetch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(download.MIRROR_VARIABLE, "http://127.0.0.1:9")
    assert fetch(f"{server.address}/{NAME}").read_bytes() == CONTENT
    with pytest.raises(
        UserError, match=r"from the mirror http://127\.0\.0\.1:9/detectron2/R-50\.pkl to .*no connection"
    ):
        fetch("detectron2://R-50.pkl")


def test_offline_uses_the_cache_only(server: Server, fetch: Fetch, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"{server.address}/{NAME}"
    monkeypatch.setenv(download.OFFLINE_VARIABLE, "1")
    with pytest.raises(UserError) as caught:
        fetch(url)
    assert url in str(caught.value)
    assert f"Put the file at {cached_path(url)}" in str(caught.value)
    assert server.ranges == []
    monkeypatch.setenv(download.OFFLINE_VARIABLE, "0")
    fetch(url)
    monkeypatch.setenv(download.OFFLINE_VARIABLE, "1")
    assert fetch(url).read_bytes() == CONTENT

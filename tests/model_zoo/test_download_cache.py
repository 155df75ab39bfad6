"""Kinds of address, and where their files are kept."""

import os
from pathlib import Path

import pytest

from mrcnn_zoo.errors import UserError
from mrcnn_zoo.model_zoo import download
from mrcnn_zoo.model_zoo.download import cached_path, local_path, path_manager
from mrcnn_zoo.model_zoo.transfer import Downloader


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    folder = tmp_path / "cache"
    monkeypatch.setenv(download.CACHE_VARIABLE, str(folder))
    return folder


def test_equal_paths_of_two_hosts_and_two_queries_are_different_files(cache: Path) -> None:
    urls = ["http://a/m.pth", "http://b/m.pth", "http://a:81/m.pth", "http://a/m.pth?id=1", "http://a/m.pth?id=2"]
    places = [cached_path(url) for url in urls]
    assert len(set(places)) == len(urls)
    assert all(cache in place.parents and place.suffix == ".pth" for place in places)


@pytest.mark.parametrize("url", ["http://host", "http://host/", "http://host/../../x.pth"])
def test_addresses_of_no_file_are_refused(url: str) -> None:
    with pytest.raises(UserError, match="names no file"):
        local_path(url)


def test_cache_folder_is_ours_then_that_of_fvcore(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "fvcore"))
    assert download.cache_folder() == cache
    monkeypatch.delenv(download.CACHE_VARIABLE)
    assert download.cache_folder() == tmp_path / "fvcore"


def test_detectron2_addresses_find_its_server_and_its_cache(cache: Path) -> None:
    # The file lies where Detectron2 itself would have put it, so nothing is fetched.
    place = cache / "detectron2/ImageNetPretrained/model.pth"
    place.parent.mkdir(parents=True)
    place.touch()
    assert local_path("detectron2://ImageNetPretrained/model.pth") == place


def test_mirror_must_be_an_address(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001
    monkeypatch.setenv(download.MIRROR_VARIABLE, "/mnt/mirror")
    with pytest.raises(UserError, match=r"MRCNN_ZOO_MIRROR=/mnt/mirror is no address"):
        local_path("detectron2://R-50.pkl")


def test_unknown_kinds_of_address_are_refused() -> None:
    with pytest.raises(UserError, match=r"s3://x: unknown kind of address; known are zoo://, .*detectron2://"):
        local_path("s3://x")


def test_no_server_is_a_clear_error(cache: Path) -> None:
    with pytest.raises(UserError, match=r"no connection: .*refused"):
        local_path("http://127.0.0.1:9/model.pth", paths=path_manager(Downloader(attempts=1)))
    assert not [path for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock"]


def test_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv(download.CACHE_VARIABLE, str(tmp_path / "file" / "cache"))
    with pytest.raises(UserError, match=r"to .*/file/cache/.*Name a folder that can be written to by MRCNN_ZOO_CACHE"):
        local_path("http://127.0.0.1:9/model.pth")

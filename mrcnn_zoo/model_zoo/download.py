"""Files by path or URL: downloaded once, verified, and cached.

Environment variables: MRCNN_ZOO_CACHE, the folder of downloads (else iopath's: FVCORE_CACHE, ~/.torch/iopath_cache);
MRCNN_ZOO_MIRROR, the base of a server that has the publishers' files under the same paths; MRCNN_ZOO_OFFLINE=1,
take from the cache only.
"""

import hashlib
import os
from pathlib import Path, PurePosixPath
from typing import ClassVar
from urllib.parse import urlsplit

from iopath.common.file_io import HTTPURLHandler, PathManager, file_lock, get_cache_dir
from portalocker import LockException

from mrcnn_zoo.errors import UserError
from mrcnn_zoo.model_zoo import catalog, index
from mrcnn_zoo.model_zoo.checksum import Checksum, checksum_in_name, checksum_of_entry
from mrcnn_zoo.model_zoo.transfer import Downloader, Transfer

CACHE_VARIABLE = "MRCNN_ZOO_CACHE"
MIRROR_VARIABLE = "MRCNN_ZOO_MIRROR"
OFFLINE_VARIABLE = "MRCNN_ZOO_OFFLINE"
NO = ("", "0", "false", "no", "off")

URL_PREFIXES = {"detectron2://": "https://dl.fbaipublicfiles.com/detectron2/"}
WEB_PREFIXES = ("https://", "http://")
# The hosts that a mirror replaces.
PUBLISHERS = {"dl.fbaipublicfiles.com", "download.pytorch.org", "download.openmmlab.com"}


class WeightsPathHandler(HTTPURLHandler):
    """iopath's handler of web addresses, `detectron2://`, `catalog://` and `zoo://` with our downloads.

    Args:
        downloader: downloads files that are not in the cache.
    """

    PREFIXES: ClassVar[list[str]] = [index.PREFIX, catalog.PREFIX, *URL_PREFIXES, *WEB_PREFIXES]

    def __init__(self, downloader: Downloader) -> None:
        super().__init__()
        self._downloader = downloader

    def _get_supported_prefixes(self) -> list[str]:
        return self.PREFIXES

    def _get_local_path(self, path: str, force: bool = False) -> str:
        if force and not path.startswith(index.PREFIX):
            cached_path(path).unlink(missing_ok=True)
        if path.startswith(index.PREFIX):
            return str(_zoo_weights(path, self._downloader))
        return str(_download(full_url(path), self._downloader))


def path_manager(downloader: Downloader | None = None) -> PathManager:
    """An iopath manager for our kinds of addresses.

    Args:
        downloader: None makes one.
    """
    manager = PathManager()
    manager.register_handler(WeightsPathHandler(downloader or Downloader()))
    return manager


def local_path(path_or_url: str, *, paths: PathManager | None = None) -> Path:
    """The local file of a path, of a URL, which is downloaded into the cache, or of a model of the zoo.

    Args:
        path_or_url: a path, `http(s)://...`, `detectron2://...`, `catalog://...` or `zoo://NAME`.
        paths: resolves addresses; by default a manager that downloads.

    Raises:
        UserError: an unknown kind of address, or a failed download. Whether a path exists is not checked.
    """
    if "://" not in path_or_url:
        return Path(path_or_url)
    if not path_or_url.startswith(tuple(WeightsPathHandler.PREFIXES)):
        known = ", ".join(WeightsPathHandler.PREFIXES)
        raise UserError(f"{path_or_url}: unknown kind of address; known are {known} and paths of files.")
    return Path((paths or path_manager()).get_local_path(path_or_url))


def full_url(address: str) -> str:
    """The web address of `detectron2://...` or `catalog://...`; other addresses unchanged.

    Args:
        address: of any kind.
    """
    if address.startswith(catalog.PREFIX):
        return catalog.catalog_url(address)
    for prefix, base in URL_PREFIXES.items():
        if address.startswith(prefix):
            return base + address.removeprefix(prefix)
    return address


def cached_path(url: str) -> Path:
    """The path of a URL's download in the cache, whether it exists or not.

    Args:
        url: also `detectron2://...` or `catalog://...`.

    Raises:
        UserError: a URL that names no file.
    """
    address = urlsplit(full_url(url))
    relative = PurePosixPath(address.path.lstrip("/"))
    if not relative.name or ".." in relative.parts:
        raise UserError(f"{url} names no file.")
    if address.query:  # two queries may be two files
        digest = hashlib.sha256(address.query.encode()).hexdigest()[:8]
        relative = relative.with_name(f"{relative.stem}-{digest}{relative.suffix}")
    # iopath's own layout has no host in it, and two hosts may have a file at the same path.
    is_shared = full_url(url).startswith(tuple(URL_PREFIXES.values()))  # with Detectron2's own cache
    host = "" if is_shared else address.netloc.rpartition("@")[2].replace(":", "_")
    return cache_folder() / host / relative


def cache_folder() -> Path:
    """The folder of downloads; it may not exist yet."""
    ours = os.environ.get(CACHE_VARIABLE, "")
    return Path(ours).expanduser() if ours else Path(get_cache_dir())


def forget_download(path: Path) -> None:
    """Delete a file of the cache, so that it is downloaded again; other files stay."""
    if cache_folder().resolve() in path.resolve().parents:
        path.unlink(missing_ok=True)


def _zoo_weights(name: str, downloader: Downloader) -> Path:
    entry = index.find_entry(name)
    address, checksum = index.weights_address(entry), checksum_of_entry(entry)
    path = Path(address) if entry.is_shipped else _download(address, downloader, checksum)
    if not path.is_file():
        raise UserError(f"the weights of {entry.name} should be at {path}, but are not: install the package again.")
    difference = checksum.difference(path) if checksum else ""
    if difference:
        what = "Install the package again" if entry.is_shipped else "Delete it and try again"
        raise UserError(f"{path} is not the file that was published as {entry.name}: {difference}. {what}.")
    return path


def _download(url: str, downloader: Downloader, checksum: Checksum | None = None) -> Path:
    target = cached_path(url)
    if target.is_file():
        return target
    if os.environ.get(OFFLINE_VARIABLE, "").lower() not in NO:
        raise UserError(
            f"{url} is not in the cache, and {OFFLINE_VARIABLE} forbids to download it. Put the file at {target}, or "
            f"unset {OFFLINE_VARIABLE}."
        )
    transfer = Transfer(url, target, checksum or checksum_in_name(url), _mirror_of(url))
    try:
        with file_lock(str(target)):
            if not target.is_file():  # another process may have downloaded it meanwhile
                downloader.fetch(transfer)
    except LockException as error:
        raise transfer.refusal(
            "another process has been downloading it for very long", f"If there is none, delete {target}.lock."
        ) from error
    except OSError as error:
        raise transfer.refusal(
            f"{error.strerror or error}", f"Name a folder that can be written to by {CACHE_VARIABLE}."
        ) from error
    return target


def _mirror_of(url: str) -> str:
    """The address of a publisher's file on the mirror; empty when there is no mirror for it."""
    base, address = os.environ.get(MIRROR_VARIABLE, ""), urlsplit(url)
    if not base or address.hostname not in PUBLISHERS:
        return ""
    if not base.startswith(WEB_PREFIXES):
        raise UserError(f"{MIRROR_VARIABLE}={base} is no address: it should begin with https:// or http://.")
    return base.rstrip("/") + address.path

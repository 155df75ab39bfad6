"""Downloads one file over HTTP: resumed, retried, and verified before it is renamed to its target."""

import logging
import shutil
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse
from itertools import chain
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from mrcnn_zoo import __version__
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.model_zoo.checksum import CHUNK, Checksum, record_checksum
from mrcnn_zoo.model_zoo.partial_file import PartialFile
from mrcnn_zoo.progress import ProgressLine, show_progress, size_in_words

logger = logging.getLogger(__name__)

RETRIED_STATUSES = {408, 425, 429, 500, 502, 503, 504}
LONGEST_WAIT = 60.0  # seconds
PAGE_BEGINNINGS = (b"<!doctype", b"<html")
OTHER_MEANS = "or download the file by other means and give its path"
OTHER_FOLDER = "name a folder on another disk by the environment variable MRCNN_ZOO_CACHE"


class BrokenTransferError(Exception):
    """A failed transfer that is worth another try.

    Args:
        what: failed.
        wait: seconds that the server requests before the next try.
    """

    def __init__(self, what: str, *, wait: float = 0.0) -> None:
        super().__init__(what)
        self.wait = wait


@dataclass(frozen=True)
class Transfer:
    """A file to download.

    Args:
        url: as it was published.
        target: path of the downloaded file.
        checksum: of the file; None where none is published.
        address: on a mirror; empty for the URL itself.
    """

    url: str
    target: Path
    checksum: Checksum | None = None
    address: str = ""

    def refusal(self, what: str, advice: str) -> UserError:
        """The error that ends the transfer.

        Args:
            what: failed.
            advice: what to do.
        """
        via = f" from the mirror {self.address}" if self.address else ""
        return UserError(f"cannot download {self.url}{via} to {self.target.parent}: {what}. {advice}")


class Downloader:
    """Downloads files.

    Args:
        attempts: tries in a row without a new byte.
        timeout: seconds without a response.
        sleep: waits for a number of seconds.
    """

    def __init__(
        self, *, attempts: int = 5, timeout: float = 30.0, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self.attempts = attempts
        self.timeout = timeout
        self.sleep = sleep

    def fetch(self, transfer: Transfer) -> None:
        """Download to `transfer.target`, which is created only when the file is complete and verified.

        The bytes of a broken transfer stay beside it as `.part`, and the next call continues from them.

        Args:
            transfer: the file.

        Raises:
            UserError: with what failed and what to do.
        """
        part = PartialFile(transfer.target, url=transfer.url)
        self._receive_all(transfer, part)
        difference = _difference(transfer, part)
        if difference and part.was_continued:  # from two versions of the file
            part.discard()
            self._receive_all(transfer, part)
            difference = _difference(transfer, part)
        if difference:
            part.discard()
            raise transfer.refusal(
                f"what arrived is not the file that was published: {difference}",
                "It was deleted. Try again; if it happens again, the server or a proxy has another file.",
            )
        part.finish()
        if transfer.checksum is None:
            record_checksum(transfer.target)

    def _receive_all(self, transfer: Transfer, part: PartialFile) -> None:
        failures, furthest = 0, part.size
        while True:
            try:
                self._attempt(transfer, part)
                return
            except BrokenTransferError as error:
                failures = 1 if part.size > furthest else failures + 1
                furthest = max(furthest, part.size)
                if failures >= self.attempts:
                    raise _gave_up(transfer, part, error) from error
                wait = min(max(2.0 ** (failures - 1), error.wait), LONGEST_WAIT)
                logger.warning("%s: %s; trying again in %g s", transfer.url, error, wait)
                self.sleep(wait)

    def _attempt(self, transfer: Transfer, part: PartialFile) -> None:
        headers = {"User-Agent": f"mrcnn_zoo/{__version__}", "Accept-Encoding": "identity", **part.range_headers()}
        request = Request(transfer.address or transfer.url, headers=headers)
        try:
            response = urlopen(request, timeout=self.timeout)
        except HTTPError as error:
            with error:
                if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and part.size:
                    if not part.is_all_of(error.headers.get("Content-Range", "")):
                        part.discard()
                        raise BrokenTransferError(
                            "the file on the server is shorter than the part that was kept"
                        ) from error
                    return
                raise _status_error(transfer, error) from error
        except (OSError, HTTPException) as error:  # no connection
            raise _connection_error(transfer, error) from error
        with response:
            _refuse_page(transfer, response, response.headers.get_content_type() == "text/html")
            _receive(transfer, part, response)


def _gave_up(transfer: Transfer, part: PartialFile, error: BrokenTransferError) -> UserError:
    if part.range_headers():
        kept = f"; {part.size:,} bytes are kept in {part.path} and will be continued"
    else:  # it cannot be continued
        part.discard()
        kept = ""
    return transfer.refusal(f"{error}{kept}", f"Check the connection and try again, {OTHER_MEANS}.")


def _receive(transfer: Transfer, part: PartialFile, response: HTTPResponse) -> None:
    """Write the body of a response: the rest of the file, or all of it where the server starts anew."""
    start = part.start_of(response.status, response.headers)
    if start is None:
        part.discard()
        raise BrokenTransferError("the server sent another part of the file than the requested one")
    remaining = response.length  # None where the server does not send it
    _refuse_full_disk(transfer, remaining or 0)
    chunks = _chunks(response, remaining)
    first = next(chunks, b"")
    if start == 0:
        _refuse_page(transfer, response, first.lstrip()[:16].lower().startswith(PAGE_BEGINNINGS))
        if not first and not remaining:
            raise transfer.refusal("the server sent an empty file", f"Check the address, {OTHER_MEANS}.")
    total = None if remaining is None else start + remaining
    try:
        line = ProgressLine(transfer.target.name, total=total or 0, done=start, in_words=size_in_words)
        began = time.monotonic()
        with part.open(start, response.headers) as file, show_progress(line) as display:
            for chunk in chain([first], chunks):
                file.write(chunk)
                line.done += len(chunk)
                rate = (line.done - start) / max(time.monotonic() - began, 1e-3)
                line.show({"rate": f"{size_in_words(rate)}/s"})
                if display is not None:
                    display.refresh()
    except OSError as error:  # of the disk: those of the network come as BrokenTransferError
        raise transfer.refusal(
            f"{part.path} cannot be written: {error.strerror or error}",
            f"Make room, or {OTHER_FOLDER}; then try again.",
        ) from error
    if total is not None and part.size != total:
        raise BrokenTransferError(f"the connection broke after {part.size:,} of {total:,} bytes")


def _refuse_full_disk(transfer: Transfer, needed: int) -> None:
    free = shutil.disk_usage(transfer.target.parent).free
    if needed > free:
        raise transfer.refusal(
            f"the disk is full: {needed:,} bytes are missing, {free:,} are free",
            f"Free some, or {OTHER_FOLDER}; then try again.",
        )


def _chunks(response: HTTPResponse, expected: int | None) -> Iterator[bytes]:
    """The body in chunks. `read` would lose the bytes before a break, and wait for servers that keep the connection."""
    received = 0
    try:
        while expected is None or received < expected:
            chunk = response.read1(CHUNK)
            if not chunk:
                return
            received += len(chunk)
            yield chunk
    except (OSError, HTTPException) as error:
        raise BrokenTransferError(f"the connection broke: {error}") from error


def _refuse_page(transfer: Transfer, response: HTTPResponse, is_page: bool) -> None:
    if is_page:
        raise transfer.refusal(
            f"{response.url} answers with a web page, not with the file",
            f"A network that requires a login does so, or a wrong address: open it in a browser, {OTHER_MEANS}.",
        )


def _status_error(transfer: Transfer, error: HTTPError) -> Exception:
    what = " ".join(f"the server answers {error.code} {error.reason}".split())  # on one line
    if error.code in RETRIED_STATUSES:
        seconds = error.headers.get("Retry-After", "")
        return BrokenTransferError(what, wait=float(seconds) if seconds.isdigit() else 0.0)
    where = "the address and MRCNN_ZOO_MIRROR" if transfer.address else "the address"
    return transfer.refusal(what, f"Check {where}, {OTHER_MEANS}.")


def _connection_error(transfer: Transfer, error: Exception) -> Exception:
    reason = error.reason if isinstance(error, URLError) else error
    if isinstance(reason, ssl.SSLCertVerificationError):
        return transfer.refusal(
            f"the certificate of the server is not trusted: {reason}",
            f"Behind a company's proxy, name its certificates by SSL_CERT_FILE, {OTHER_MEANS}.",
        )
    return BrokenTransferError(f"no connection: {reason}")


def _difference(transfer: Transfer, part: PartialFile) -> str:
    return transfer.checksum.difference(part.path) if transfer.checksum else ""

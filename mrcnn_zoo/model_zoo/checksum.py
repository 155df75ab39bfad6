"""Checksums of files, and what is known of a partial download."""

import hashlib
import json
import os
import re
from dataclasses import dataclass
from email.message import Message
from http import HTTPStatus
from pathlib import Path
from typing import BinaryIO

from mrcnn_zoo.errors import UserError
from mrcnn_zoo.model_zoo.index import ZooEntry

CHUNK = 1 << 20  # bytes


RECORD_SUFFIX = ".sha256"  # of the file that keeps what a file without a published checksum had when it came


# Publishers that write the beginning of the checksum into the name of the file. Names of others are not interpreted:
# six or eight digits may be a date there.
NAMED_CHECKSUMS = (
    ("https://dl.fbaipublicfiles.com/detectron2/", "md5", re.compile(r"_([0-9a-f]{6})\.pkl$")),
    ("https://download.pytorch.org/models/", "sha256", re.compile(r"-([0-9a-f]{8,64})\.pth$")),
    ("https://download.openmmlab.com/", "sha256", re.compile(r"-([0-9a-f]{8,64})\.pth$")),
)


@dataclass(frozen=True)
class Checksum:
    """What the content of a file must hash to."""

    algorithm: str  # "md5" or "sha256"
    digits: str  # hexadecimal; the beginning is enough

    def digest_of(self, path: Path) -> str:
        """The whole hexadecimal digest that a file has by this algorithm."""
        digest = hashlib.new(self.algorithm, usedforsecurity=False)
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
        return digest.hexdigest()

    def difference(self, path: Path) -> str:
        """In words how the file differs from what it should be; empty when it does not."""
        found = self.digest_of(path)
        if found.startswith(self.digits.lower()):
            return ""
        begins = "begin with " if len(self.digits) < len(found) else "be "
        return f"its {self.algorithm} is {found} but should {begins}{self.digits}"


def checksum_of_entry(entry: ZooEntry) -> Checksum | None:
    """The checksum that the index has for a model's weights."""
    if entry.sha256:
        return Checksum("sha256", entry.sha256)
    return Checksum("md5", entry.md5) if entry.md5 else None


def checksum_in_name(url: str) -> Checksum | None:
    """The checksum that a publisher put into the name of a file; None for a publisher who does not."""
    for prefix, algorithm, pattern in NAMED_CHECKSUMS:
        found = pattern.search(url) if url.startswith(prefix) else None
        if found:
            return Checksum(algorithm, found[1])
    return None


def record_checksum(path: Path) -> None:
    """Keep the SHA-256 of a file beside it, in the form of `sha256sum`, so that later damage can be found."""
    digest = Checksum("sha256", "").digest_of(path)
    path.with_name(path.name + RECORD_SUFFIX).write_text(f"{digest}  {path.name}\n", encoding="utf-8")


def recorded_checksum(path: Path) -> Checksum | None:
    """What `record_checksum` kept."""
    record = path.with_name(path.name + RECORD_SUFFIX)
    if not record.is_file():
        return None
    digits = record.read_text(encoding="utf-8").split()[:1]
    if not digits or not re.fullmatch(r"[0-9a-f]{64}", digits[0]):
        raise UserError(f"{record} holds no SHA-256. Delete it, and {path.name} too if you doubt it.")
    return Checksum("sha256", digits[0])


CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)")


class PartialFile:
    """The `.part` file of a download, with a record of the version on the server that it is a part of.

    Args:
        target: the file that it will become.
        url: that it comes from; parts from elsewhere are not continued.
    """

    def __init__(self, target: Path, *, url: str) -> None:
        self.target = target
        self.path = target.with_name(target.name + ".part")
        self.was_continued = False  # whether it is made of several pieces
        self._url = url
        self._record = target.with_name(target.name + ".part.json")

    @property
    def size(self) -> int:
        """Bytes that have arrived."""
        return self.path.stat().st_size if self.path.is_file() else 0

    def range_headers(self) -> dict[str, str]:
        """What to ask for: the rest, if the server still has the same version; everything where that cannot be told."""
        validator = self._recorded_validator()
        if not self.size or not validator:
            return {}
        return {"Range": f"bytes={self.size}-", "If-Range": validator}

    def is_all_of(self, content_range: str) -> bool:
        """Whether everything has arrived, by the header of an answer that there is no more."""
        found = CONTENT_RANGE.match(content_range)
        return found is not None and found[2] == str(self.size)

    def start_of(self, status: int, headers: Message) -> int | None:
        """The byte that the body of an answer starts at; None when it is another part than was asked for."""
        if status != HTTPStatus.PARTIAL_CONTENT:
            return 0
        found = CONTENT_RANGE.match(headers.get("Content-Range", ""))
        return self.size if found is not None and found[1] == str(self.size) else None

    def open(self, start: int, headers: Message) -> BinaryIO:
        """To write from byte `start` on; the headers tell which version it is."""
        self.was_continued = start > 0
        if start == 0:
            record = {"url": self._url, "validator": _validator(headers)}
            self._record.write_text(json.dumps(record), encoding="utf-8")
        return self.path.open("ab" if start else "wb")

    def finish(self) -> None:
        """Give it its name."""
        os.replace(self.path, self.target)
        self._record.unlink(missing_ok=True)

    def discard(self) -> None:
        """Delete it."""
        self.path.unlink(missing_ok=True)
        self._record.unlink(missing_ok=True)
        self.was_continued = False

    def _recorded_validator(self) -> str:
        try:
            record = json.loads(self._record.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # none, or cut short: nothing to continue
            return ""
        is_ours = isinstance(record, dict) and record.get("url") == self._url
        return str(record.get("validator") or "") if is_ours else ""


def _validator(headers: Message) -> str:
    """What a server names a version by; weak tags do not promise equal bytes. Source: RFC 9110, section 13.1.5."""
    tag = headers.get("ETag", "")
    return headers.get("Last-Modified", "") if not tag or tag.startswith("W/") else tag

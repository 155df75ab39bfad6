"""Checksums of downloaded files: published, written in their names, or recorded when they were downloaded."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from mrcnn_zoo.errors import UserError
from mrcnn_zoo.model_zoo.index import ZooEntry

CHUNK = 1 << 20  # bytes
RECORD_SUFFIX = ".sha256"  # of the file with the recorded checksum, where none is published
# Publishers that write the first digits of the checksum into the name of a file. Names of others are not interpreted:
# six or eight digits may be a date there.
NAMED_CHECKSUMS = (
    ("https://dl.fbaipublicfiles.com/detectron2/", "md5", re.compile(r"_([0-9a-f]{6})\.pkl$")),
    ("https://download.pytorch.org/models/", "sha256", re.compile(r"-([0-9a-f]{8,64})\.pth$")),
    ("https://download.openmmlab.com/", "sha256", re.compile(r"-([0-9a-f]{8,64})\.pth$")),
)


@dataclass(frozen=True)
class Checksum:
    """The expected checksum of a file.

    Args:
        algorithm: "md5" or "sha256".
        digits: hexadecimal; the first ones are enough.
    """

    algorithm: str
    digits: str

    def digest_of(self, path: Path) -> str:
        """The complete hexadecimal digest of a file."""
        digest = hashlib.new(self.algorithm, usedforsecurity=False)
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
        return digest.hexdigest()

    def difference(self, path: Path) -> str:
        """A sentence about a file with another checksum; empty for the expected one."""
        found = self.digest_of(path)
        if found.startswith(self.digits.lower()):
            return ""
        begins = "begin with " if len(self.digits) < len(found) else "be "
        return f"its {self.algorithm} is {found} but should {begins}{self.digits}"


def checksum_of_entry(entry: ZooEntry) -> Checksum | None:
    """The checksum of a model's weights in the index.

    Args:
        entry: of the model.
    """
    if entry.sha256:
        return Checksum("sha256", entry.sha256)
    return Checksum("md5", entry.md5) if entry.md5 else None


def checksum_in_name(url: str) -> Checksum | None:
    """The checksum in the name of a published file; None for publishers that write none.

    Args:
        url: of the file.
    """
    for prefix, algorithm, pattern in NAMED_CHECKSUMS:
        found = pattern.search(url) if url.startswith(prefix) else None
        if found:
            return Checksum(algorithm, found[1])
    return None


def sha256_of(path: Path) -> str:
    """The hexadecimal SHA-256 of a file."""
    return Checksum("sha256", "").digest_of(path)


def record_checksum(path: Path) -> None:
    """Write the SHA-256 of a file beside it, in the format of `sha256sum`, to detect later damage."""
    digest = sha256_of(path)
    path.with_name(path.name + RECORD_SUFFIX).write_text(f"{digest}  {path.name}\n", encoding="utf-8")


def recorded_checksum(path: Path) -> Checksum | None:
    """The checksum that `record_checksum` has written; None without one.

    Raises:
        UserError: the record is no checksum.
    """
    record = path.with_name(path.name + RECORD_SUFFIX)
    if not record.is_file():
        return None
    digits = record.read_text(encoding="utf-8").split()[:1]
    if not digits or not re.fullmatch(r"[0-9a-f]{64}", digits[0]):
        raise UserError(f"{record} holds no SHA-256. Delete it, and {path.name} too if you doubt it.")
    return Checksum("sha256", digits[0])

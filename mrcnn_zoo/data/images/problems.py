"""Error messages for image files that cannot be read, and notes about files that are read with changes."""

import logging
import mmap
import os
import zlib
from pathlib import Path

from mrcnn_zoo.errors import UserError

# Signatures of files that are mistaken for images: bytes, position, description and advice. The first match counts.
SIGNATURES: tuple[tuple[bytes, int, str], ...] = (
    (b"version https://git-lfs", 0, "a Git LFS pointer in place of the file; fetch it with `git lfs pull`"),
    (b"<svg", 0, "a vector drawing (SVG); export it as PNG"),
    (b"%PDF", 0, "a PDF; export its picture as PNG"),
    (b"ftyphei", 4, "a HEIC photo; convert it to JPEG or PNG"),
    (b"ftypmif1", 4, "a HEIF photo; convert it to JPEG or PNG"),
    (b"DICM", 128, "a DICOM file; convert it to TIFF or PNG"),
    (b"\x89HDF", 0, "an HDF5 file; write its images as TIFF or .npy"),
    (b"ZISRAWFILE", 0, "a CZI microscopy file; export its images as TIFF"),
    (b"PK\x03\x04", 0, "a ZIP archive; unpack it"),
    (b"\x1f\x8b", 0, "a gzip archive; unpack it"),
)
HEAD_LENGTH = 512  # bytes read to identify a file
# In messages of Pillow and tifffile about unsupported, undamaged files.
UNSUPPORTED = (
    *("raw mode", "unsupported", "not supported", "unknown compression", "imagecodecs", "requires the"),
    "max_text_chunk",
)
ADVICE = "copy or download it again, or leave it out."
MAX_NOTES = 5  # per kind; further files are not named

# Shared memory of forked worker processes, so that each file is noted once.
_SLOTS, _KINDS = 1 << 16, 1 << 8
_noted = mmap.mmap(-1, _SLOTS + _KINDS)
logger = logging.getLogger(__name__)


def read_head(path: str) -> bytes:
    """The first bytes of an image file.

    Raises:
        UserError: a file that is missing, empty or not readable, or a folder.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD_LENGTH)
    except OSError as error:
        raise cannot_open(path, error) from error
    if not head:
        raise UserError(f"{path} is not an image: the file is empty (0 bytes); {ADVICE}")
    return head


def cannot_open(path: str, error: OSError) -> UserError:
    """The error for a file that cannot be opened.

    Args:
        path: of the file.
        error: of the file system.
    """
    if isinstance(error, FileNotFoundError):
        if os.path.islink(path):
            return UserError(f"{path} is a link to {os.readlink(path)}, which is missing.")
        return UserError(f"{path}: the image file is missing. Was it moved or renamed?")
    if isinstance(error, IsADirectoryError) or Path(path).is_dir():
        return UserError(f"{path} is a folder where an image file is expected.")
    if isinstance(error, PermissionError):
        return UserError(f"{path} cannot be opened: you have no permission to read it.")
    return UserError(f"{path} cannot be opened ({error.strerror or error}).")


def no_image(path: str, head: bytes) -> UserError:
    """The error for a file that no reader supports.

    Args:
        path: of the file.
        head: its first bytes.
    """
    for signature, position, what in SIGNATURES:
        if head[position:].startswith(signature):
            return UserError(f"{path} is not an image but {what}.")
    text = _as_text(head)
    if text is None:
        return UserError(f"{path} is not an image of a known kind, or it is cut off at the start; {ADVICE}")
    if text.lower().startswith(("<!doctype html", "<html")):
        return UserError(
            f"{path} is not an image but a web page; the address may need a login or have moved. Download it again, or "
            "leave it out."
        )
    return UserError(f"{path} is not an image but text ({text[:30]!r}...); {ADVICE}")


def _as_text(head: bytes) -> str | None:
    text = head.decode("utf-8", errors="ignore").strip()
    is_text = len(text) > len(head) // 2 and all(letter.isprintable() or letter.isspace() for letter in text)
    return " ".join(text.split()) if is_text else None


def cannot_decode(path: str, error: Exception) -> UserError:
    """The error for an image file that is damaged or of an unsupported kind.

    Args:
        path: of the file.
        error: of the reader.
    """
    reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
    if any(word in reason.lower() for word in UNSUPPORTED):
        advice = "Convert it to a plain PNG or TIFF, or leave it out."
        if "imagecodecs" in reason:
            advice = "Install its codec with `pip install imagecodecs`."
        return UserError(f"{path} is of an unsupported kind ({reason}). {advice}")
    return UserError(f"{path} cannot be decoded ({reason}). The file is probably truncated or damaged: {ADVICE}")


def note_once(path: str, text: str, *, kind: str) -> None:
    """Log how an ambiguous file is read, once per file and at most MAX_NOTES times per kind.

    Args:
        path: of the file.
        text: the predicate of the sentence, e.g. "is animated; the first of its 3 frames is read."
        kind: of note, a word or two.
    """
    slot, counter = zlib.crc32(f"{kind}\n{path}".encode()) % _SLOTS, _SLOTS + zlib.crc32(kind.encode()) % _KINDS
    if _noted[slot] or _noted[counter] > MAX_NOTES:
        return
    _noted[slot] = 1
    _noted[counter] += 1
    if _noted[counter] > MAX_NOTES:
        logger.warning("%s: more files than these %d; the others are not named.", kind, MAX_NOTES)
    else:
        logger.warning("%s %s", path, text)

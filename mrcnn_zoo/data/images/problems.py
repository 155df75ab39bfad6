"""Why an image file cannot be read, in words, and notes about files that are read with a change."""

import logging
import mmap
import os
import zlib
from pathlib import Path

from mrcnn_zoo.errors import UserError

# First bytes of files that are taken for images, and what they are. The order matters: the first that fits counts.
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
LONGEST_HEAD = 512  # bytes that are looked at
# In messages of Pillow and tifffile about files of a kind that they do not know, which are not damaged.
UNKNOWN_KIND = (
    *("raw mode", "unsupported", "not supported", "unknown compression", "imagecodecs", "requires the"),
    "max_text_chunk",
)
WHAT_TO_DO = "copy or download it again, or leave it out."
MOST_NOTES = 5  # of one kind; more files are not named

# Shared by loader processes, which are forked, so that several of them do not note the same file.
_SLOTS, _KINDS = 1 << 16, 1 << 8
_noted = mmap.mmap(-1, _SLOTS + _KINDS)
logger = logging.getLogger(__name__)


def read_head(path: str) -> bytes:
    """The first bytes of an image file.

    Raises:
        UserError: a file that is missing, a folder, empty or not to be opened.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(LONGEST_HEAD)
    except OSError as error:
        raise cannot_open(path, error) from error
    if not head:
        raise UserError(f"{path} is not an image: the file is empty (0 bytes); {WHAT_TO_DO}")
    return head


def cannot_open(path: str, error: OSError) -> UserError:
    """The cause of an error of the file system."""
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
    """What a file is that no reader knows."""
    for signature, position, what in SIGNATURES:
        if head[position:].startswith(signature):
            return UserError(f"{path} is not an image but {what}.")
    text = _as_text(head)
    if text is None:
        return UserError(f"{path} is not an image of a known kind, or it is cut off at the start; {WHAT_TO_DO}")
    if text.lower().startswith(("<!doctype html", "<html")):
        return UserError(
            f"{path} is not an image but a web page; the address may need a login or have moved. Download it again, or "
            "leave it out."
        )
    return UserError(f"{path} is not an image but text ({text[:30]!r}...); {WHAT_TO_DO}")


def _as_text(head: bytes) -> str | None:
    text = head.decode("utf-8", errors="ignore").strip()
    is_text = len(text) > len(head) // 2 and all(letter.isprintable() or letter.isspace() for letter in text)
    return " ".join(text.split()) if is_text else None


def cannot_decode(path: str, error: Exception) -> UserError:
    """A file that begins as an image: it is damaged, or of a kind that is not read."""
    reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
    if any(word in reason.lower() for word in UNKNOWN_KIND):
        advice = "Convert it to a plain PNG or TIFF, or leave it out."
        if "imagecodecs" in reason:
            advice = "Install what decompresses it with `pip install imagecodecs`."
        return UserError(f"{path} is of a kind that cannot be decoded here ({reason}). {advice}")
    return UserError(f"{path} cannot be decoded ({reason}). The file is probably truncated or damaged: {WHAT_TO_DO}")


def note_once(path: str, text: str, *, kind: str) -> None:
    """Log that a file is read otherwise than it may be meant, once for each file and a few times for each kind.

    Args:
        path: of the file.
        text: what holds and what is done about it.
        kind: of note, a word or two.
    """
    slot, counter = zlib.crc32(f"{kind}\n{path}".encode()) % _SLOTS, _SLOTS + zlib.crc32(kind.encode()) % _KINDS
    if _noted[slot] or _noted[counter] > MOST_NOTES:
        return
    _noted[slot] = 1
    _noted[counter] += 1
    if _noted[counter] > MOST_NOTES:
        logger.warning("%s: more files than these %d; the others are not named.", kind, MOST_NOTES)
    else:
        logger.warning("%s %s", path, text)

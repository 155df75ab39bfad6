"""XML files of annotation tools: parsed without entities, whole or element by element, with errors that name places."""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO
from xml.etree import ElementTree

from mrcnn_zoo.errors import UserError

Element = ElementTree.Element
MAX_PROLOG = 1 << 16  # bytes before the first element
ROOT = re.compile(rb"<[A-Za-z_]")
DECLARATIONS = (b"<!DOCTYPE", b"<!ENTITY")


def read_xml(path: Path) -> Element:
    """The root element of a file.

    Args:
        path: of the file.

    Raises:
        UserError: a file that cannot be read, is no XML, or declares entities, which may take any amount of memory.
    """
    try:
        with path.open("rb") as file:
            _check_prolog(file, path)
            return ElementTree.parse(file).getroot()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # LookupError: an unknown encoding
        raise _no_xml(path, error) from error


def elements_of(path: Path) -> Iterator[Element]:
    """The elements below the root, one after the other, for files that are larger than the memory.

    Args:
        path: of the file.

    Raises:
        UserError: see `read_xml`.
    """
    try:
        with path.open("rb") as file:
            _check_prolog(file, path)
            events = ElementTree.iterparse(file, events=("start", "end"))
            _, root = next(events)
            depth = 0
            for event, element in events:
                depth += 1 if event == "start" else -1
                if event == "end" and depth == 0:
                    yield element
                    root.clear()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    except (ElementTree.ParseError, ValueError, LookupError, StopIteration) as error:
        if isinstance(error, UserError):
            raise
        raise _no_xml(path, error) from error


def number_in(element: Element, field: str, *, place: str) -> float:
    """The number in a child element or, where there is none, in an attribute.

    Args:
        element: with the field.
        field: its name.
        place: file and element, for messages.

    Raises:
        UserError: a missing field, or a value that is not a finite number.
    """
    text = element.findtext(field, element.get(field))
    try:
        value = float(text) if text is not None else math.nan
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        what = "is missing" if text is None else f"is {text.strip()!r}"
        raise UserError(f"{place}: {field} of <{element.tag}> {what}; it must be a number. Correct or remove it.")
    return value


def _check_prolog(file: BinaryIO, path: Path) -> None:
    """Refuse declarations of entities, which stand before the first element."""
    start = file.read(MAX_PROLOG).replace(b"\0", b"")  # of UTF-16
    file.seek(0)
    root = ROOT.search(start)
    prolog = start[: root.start()] if root else start
    if any(declaration in prolog.upper() for declaration in DECLARATIONS):
        raise UserError(
            f"{path} has a document type (<!DOCTYPE ...>), which annotations do not need and which may declare "
            "entities of any size. Remove it if the file is trustworthy."
        )
    if root is None and len(start) == MAX_PROLOG:
        raise UserError(f"{path} has no XML element in its first {MAX_PROLOG:,} bytes.")


def _no_xml(path: Path, error: Exception) -> UserError:
    if path.stat().st_size == 0:
        return UserError(f"{path} is empty (0 bytes). Copy or download it again, or remove it.")
    return UserError(f"{path} is not valid XML: {error}. Copy or download it again, or remove it.")

"""The `.part` file of a download that may be continued."""

import json
import os
import re
from email.message import Message
from http import HTTPStatus
from pathlib import Path
from typing import BinaryIO

CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)")


class PartialFile:
    """A partial download beside its target, with a record of the version on the server.

    Args:
        target: the path of the complete file.
        url: of the file; a part of another URL is not continued.
    """

    def __init__(self, target: Path, *, url: str) -> None:
        self.target = target
        self.path = target.with_name(target.name + ".part")
        self.was_continued = False  # whether it consists of several responses
        self._url = url
        self._record = target.with_name(target.name + ".part.json")

    @property
    def size(self) -> int:
        """Bytes received so far."""
        return self.path.stat().st_size if self.path.is_file() else 0

    def range_headers(self) -> dict[str, str]:
        """The headers that request the rest of the same version; empty where the whole file must be requested."""
        validator = self._recorded_validator()
        if not self.size or not validator:
            return {}
        return {"Range": f"bytes={self.size}-", "If-Range": validator}

    def is_all_of(self, content_range: str) -> bool:
        """Whether the file is complete.

        Args:
            content_range: the header of a response without further bytes.
        """
        found = CONTENT_RANGE.match(content_range)
        return found is not None and found[2] == str(self.size)

    def start_of(self, status: int, headers: Message) -> int | None:
        """The byte that the body of a response starts at; None for another part than the requested one.

        Args:
            status: of the response.
            headers: of the response.
        """
        if status != HTTPStatus.PARTIAL_CONTENT:
            return 0
        found = CONTENT_RANGE.match(headers.get("Content-Range", ""))
        return self.size if found is not None and found[1] == str(self.size) else None

    def open(self, start: int, headers: Message) -> BinaryIO:
        """Open the file for writing.

        Args:
            start: byte to write from.
            headers: of the response, which identify the version.
        """
        self.was_continued = start > 0
        if start == 0:
            record = {"url": self._url, "validator": _validator(headers)}
            self._record.write_text(json.dumps(record), encoding="utf-8")
        return self.path.open("ab" if start else "wb")

    def finish(self) -> None:
        """Rename the complete part to its target."""
        os.replace(self.path, self.target)
        self._record.unlink(missing_ok=True)

    def discard(self) -> None:
        """Delete the part and its record."""
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
    """The header that identifies a version; weak tags do not mean equal bytes. Source: RFC 9110, section 13.1.5."""
    tag = headers.get("ETag", "")
    return headers.get("Last-Modified", "") if not tag or tag.startswith("W/") else tag

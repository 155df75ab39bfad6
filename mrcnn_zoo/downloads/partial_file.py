"""What has arrived of a file, and what must be known to fetch the rest of the same file."""

import json
import os
import re
from email.message import Message
from http import HTTPStatus
from pathlib import Path
from typing import BinaryIO

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

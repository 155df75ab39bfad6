"""JSON files in any Unicode encoding, with messages about damaged ones."""

import json
from pathlib import Path
from typing import Any

from mrcnn_zoo.errors import UserError


def read_json(path: Path) -> Any:
    """The content of a JSON file in UTF-8, UTF-16 or UTF-32, with or without a byte order mark.

    Args:
        path: of a file.

    Raises:
        UserError: a file that cannot be read or is not JSON, with the line and column.
    """
    try:
        with path.open("rb") as file:
            encoding = json.detect_encoding(file.read(4))
        with path.open(encoding=encoding) as text:
            return json.load(text)
    except json.JSONDecodeError as error:
        is_cut_off = error.pos >= len(error.doc.rstrip())
        advice = "It ends too early: the file is truncated, copy or download it again." if is_cut_off else ""
        raise UserError(
            f"{path} is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno} "
            f"(character {error.pos} of {len(error.doc)}). {advice}".rstrip()
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not a JSON text file: {error}. Save it as UTF-8.") from error
    except (ValueError, RecursionError) as error:  # a number with thousands of digits, lists nested too deeply
        raise UserError(f"{path} is not JSON that can be read: {error}.") from error
    except IsADirectoryError as error:
        raise UserError(
            f"{path} is a folder, and ANNOTATIONS must be one JSON file. Name the file, or leave ANNOTATIONS out."
        ) from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error

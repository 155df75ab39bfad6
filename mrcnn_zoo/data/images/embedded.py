"""Images inside annotation files, as base64."""

import base64
import binascii
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mrcnn_zoo.data.images.reading import DECODING_ERRORS, decode
from mrcnn_zoo.errors import UserError

SHOWN = 40  # characters of a text that is no image


@dataclass(frozen=True)
class EmbeddedImage:
    """An image file that is a field of a JSON file, in base64.

    Args:
        path: of the JSON file.
        field: its name.
    """

    path: str
    field: str

    @property
    def name(self) -> str:
        """The path of the JSON file."""
        return self.path

    def read(self) -> NDArray[np.generic]:
        """(H, W, 3) RGB, upright.

        Raises:
            UserError: the file cannot be read, or its image cannot be decoded.
        """
        try:
            content = json.loads(Path(self.path).read_bytes())
        except (OSError, ValueError) as error:
            raise UserError(f"{self.path} with the image cannot be read: {error}.") from error
        return decode(open_base64(content.get(self.field), what=f"{self.path}: {self.field!r}"))


def open_base64(text: Any, *, what: str) -> Image.Image:
    """The decoded image of a text in base64.

    Args:
        text: from an annotation file.
        what: its place, for the message.

    Raises:
        UserError: it is not base64, or not an image.
    """
    try:
        image = Image.open(io.BytesIO(base64.b64decode(text)))
        image.load()
    except (TypeError, binascii.Error, *DECODING_ERRORS) as error:
        shown = repr(text) if not isinstance(text, str) or len(text) <= SHOWN else f"{text[:SHOWN]!r}..."
        raise UserError(f"{what} is {shown}, which is not an image in base64. Write the file again.") from error
    return image

"""Pages of TIFF stacks as images of their own: INPUT.PAGES images."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mrcnn_zoo.data.images.arrays import MissingCodecError, count_pages, read_tiff
from mrcnn_zoo.data.images.problems import read_head
from mrcnn_zoo.data.images.reading import MAX_PIXELS, TIFF_MAGIC, FileImage, decode, decode_with_alpha, open_image


@dataclass(frozen=True)
class StackPage:
    """One page of a TIFF: a slice, a time point or a scanned page, with its channels.

    Args:
        path: of the file.
        page: its number, from 0.
    """

    path: str
    page: int

    @property
    def name(self) -> str:
        """The path and the number from 1: "stack.tif#3"."""
        return f"{self.path}#{self.page + 1}"

    @property
    def stem(self) -> str:
        """The name of a file with this page, without ending: "stack_0003"."""
        return f"{Path(self.path).stem}_{self.page + 1:04d}"

    def read(self, *, max_pixels: int = MAX_PIXELS) -> NDArray[np.generic]:
        """See `FileImage.read`.

        Args:
            max_pixels: the largest allowed number of pixels of the page; 0 for no limit.
        """
        return self._read(max_pixels, with_alpha=False)

    def read_with_alpha(self, *, max_pixels: int = MAX_PIXELS) -> NDArray[np.generic]:
        """See `FileImage.read_with_alpha`.

        Args:
            max_pixels: the largest allowed number of pixels of the page; 0 for no limit.
        """
        return self._read(max_pixels, with_alpha=True)

    def pages(self) -> str:
        """No pages that are read as channels."""
        return ""

    def is_turned(self) -> bool:
        """Whether a tag rotates or mirrors the image."""
        return FileImage(self.path).is_turned()

    def _read(self, max_pixels: int, *, with_alpha: bool) -> NDArray[np.generic]:
        try:
            return read_tiff(self.path, with_alpha=with_alpha, max_pixels=max_pixels, page=self.page)
        except MissingCodecError:
            with open_image(self.path, max_pixels=max_pixels) as image:
                image.seek(self.page)
                return decode_with_alpha(image) if with_alpha else decode(image)


def pages_of(path: str) -> Sequence[FileImage | StackPage]:
    """The images of a file: the pages of a TIFF with several, else the file.

    Args:
        path: of the file.

    Raises:
        UserError: a file that is missing or empty.
    """
    count = count_pages(path) if read_head(path)[:4] in TIFF_MAGIC else 1
    return [StackPage(path, page) for page in range(count)] if count > 1 else [FileImage(path)]

"""The map coordinates of an image: tags of GeoTIFF, or a world file beside the image.

Sources: OGC GeoTIFF 1.1, sections 6 and 7; the world file of Esri (six lines, of which the last two are the centre of
the first pixel).
"""

import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from mrcnn_zoo.errors import UserError
from mrcnn_zoo.structures import ImageSize

TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
BIG_TIFF = b"+"
PIXEL_SCALE, TIE_POINT, TRANSFORMATION, GEO_KEYS = 33550, 33922, 34264, 34735  # tags
RASTER_TYPE, GEOGRAPHIC_SYSTEM, PROJECTED_SYSTEM = 1025, 2048, 3072  # geo keys
PIXEL_IS_POINT = 2  # of RASTER_TYPE: coordinates of the tie point are those of a pixel's centre
USER_DEFINED = 32767  # of a coordinate system
AUTHORITY = re.compile(r'(?:AUTHORITY|ID)\["EPSG",\s*"?(\d+)"?\]')  # of WKT; the last one is that of the whole system

Points = NDArray[np.float64]


@dataclass(frozen=True)
class GeoReference:
    """The map coordinates of an image.

    Args:
        matrix: (2, 3) map coordinates = matrix @ (x, y, 1) of continuous pixels.
        source: the file, for messages.
        epsg: number of the coordinate reference system; None if unknown.
    """

    matrix: Points
    source: str
    epsg: int | None = None

    def to_map(self, points: Points) -> Points:
        """(N, 2) map coordinates of points.

        Args:
            points: (N, 2) x, y in pixels.
        """
        return points @ self.matrix[:, :2].T + self.matrix[:, 2]

    def to_pixels(self, points: Points) -> Points:
        """(N, 2) pixels of points.

        Args:
            points: (N, 2) map coordinates.
        """
        return np.asarray(np.linalg.solve(self.matrix[:, :2], (points - self.matrix[:, 2]).T).T, dtype=np.float64)

    def pixel_size(self) -> float:
        """The smaller side of a pixel, in units of the map."""
        return float(np.hypot(*self.matrix[:, :2]).min())

    def extent(self, image_size: ImageSize) -> Points:
        """(2, 2) lowest and highest map coordinates of the image.

        Args:
            image_size: (height, width).
        """
        height, width = image_size
        corners = self.to_map(np.array([[0, 0], [width, 0], [width, height], [0, height]], dtype=np.float64))
        return np.stack([corners.min(axis=0), corners.max(axis=0)])


def read_georeference(path: Path) -> GeoReference | None:
    """The map coordinates of an image file, from its GeoTIFF tags, else from its world file; None without.

    Args:
        path: of the image.

    Raises:
        UserError: a world file that is not six numbers.
    """
    return _from_tags(path) or _from_world_file(path)


def sidecar_files(path: Path) -> list[Path]:
    """The files beside an image that give its map coordinates: world files and the projection.

    Args:
        path: of the image.
    """
    suffix = path.suffix
    short = f".{suffix[1:2]}{suffix[-1:]}w" if len(suffix) > 2 else ""
    names = [ending for ending in (short, f"{suffix}w", ".wld", ".prj") if len(ending) > 2]
    files = [path.with_suffix(case(name)) for name in names for case in (str.lower, str.upper)]
    return [file for file in dict.fromkeys(files) if file.is_file()]


def _from_tags(path: Path) -> GeoReference | None:
    tags = _read_tags(path)
    scale, tie, matrix = (
        np.array(tags.get(tag, ()), dtype=np.float64) for tag in (PIXEL_SCALE, TIE_POINT, TRANSFORMATION)
    )
    keys = _geo_keys(tags.get(GEO_KEYS, ()))
    if len(matrix) == 16:
        affine = matrix.reshape(4, 4)[:2, [0, 1, 3]]
    elif len(scale) >= 2 and len(tie) == 6 and scale[:2].all():
        (column, row), (x, y) = tie[:2], tie[3:5]
        affine = np.array([[scale[0], 0, x - column * scale[0]], [0, -scale[1], y + row * scale[1]]])
    else:
        return None
    if keys.get(RASTER_TYPE) == PIXEL_IS_POINT:
        affine = _from_centres(affine)
    system = keys.get(PROJECTED_SYSTEM) or keys.get(GEOGRAPHIC_SYSTEM)
    return _checked(affine, str(path), system if system != USER_DEFINED else None)


def _read_tags(path: Path) -> dict[int, Sequence[float]]:
    """The tags of the first page of a TIFF; none of other files and of damaged ones, which their readers report."""
    try:
        with path.open("rb") as file:
            header = file.read(8)
            if header[:4] not in TIFF_MAGIC:
                return {}
            if BIG_TIFF in header[2:4]:
                header += file.read(8)
            directory = ImageFileDirectory_v2(header)
            file.seek(directory.next)
            directory.load(file)
            return {
                tag: directory[tag] for tag in (PIXEL_SCALE, TIE_POINT, TRANSFORMATION, GEO_KEYS) if tag in directory
            }
    except (OSError, ValueError, SyntaxError, KeyError, TypeError, struct.error):
        return {}


def _geo_keys(directory: Sequence[float]) -> dict[int, int]:
    """The keys whose value is in the directory itself: four numbers each, after a header of four."""
    numbers = [int(number) for number in directory]
    entries = [numbers[start : start + 4] for start in range(4, len(numbers) - 3, 4)]
    return {key: value for key, location, _, value in entries if location == 0}


def _from_world_file(path: Path) -> GeoReference | None:
    files = sidecar_files(path)
    world = next((file for file in files if file.suffix.lower() != ".prj"), None)
    if world is None:
        return None
    try:
        numbers = [float(word) for word in world.read_text(encoding="utf-8").split()]
    except (OSError, ValueError):
        numbers = []
    if len(numbers) != 6 or not np.isfinite(numbers).all():
        raise UserError(
            f"{world} is not a world file: it must have six numbers, one per line: the size of a pixel in x, two "
            "rotations, its size in y (negative where north is up), and x and y of the centre of the first pixel."
        )
    a, d, b, e, c, f = numbers
    affine = _from_centres(np.array([[a, b, c], [d, e, f]]))
    projection = next((file for file in files if file.suffix.lower() == ".prj"), None)
    found = AUTHORITY.findall(projection.read_text(encoding="utf-8", errors="replace")) if projection else []
    return _checked(affine, str(world), int(found[-1]) if found else None)


def _from_centres(affine: Points) -> Points:
    """The matrix of continuous pixels, of one whose pixels are counted at their centres from 0."""
    shifted = affine.copy()
    shifted[:, 2] -= affine[:, :2].sum(axis=1) / 2
    return shifted


def _checked(affine: Points, source: str, epsg: int | None) -> GeoReference | None:
    """None where all pixels would be on one line."""
    return GeoReference(affine, source, epsg) if np.linalg.det(affine[:, :2]) else None

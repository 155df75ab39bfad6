"""Coordinates of GeoJSON features: rings of polygons, and the pixels that map coordinates mean."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrcnn_zoo.data.field_rules import short_repr
from mrcnn_zoo.data.images.georeference import GeoReference
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.structures import ImageSize

Points = NDArray[np.float64]  # (N, 2)
EPSG_NAME = re.compile(r"EPSG:[^:]*:?(\d+)$", re.IGNORECASE)  # of "urn:ogc:def:crs:EPSG::32633" and "EPSG:32633"
WGS84 = 4326
LONGITUDES_AND_LATITUDES = np.array([[-180.0, -90.0], [180.0, 90.0]])


def read_polygons(geometry: Any, *, where: str) -> list[list[Points]]:
    """The polygons of a geometry, each an outer ring and holes without the repeated last point; none of lines and null.

    Args:
        geometry: of a feature.
        where: file and feature, for messages.

    Raises:
        UserError: another geometry than RFC 7946 has.
    """
    if geometry is None:
        return []
    if not isinstance(geometry, dict) or not isinstance(geometry.get("type"), str):
        raise invalid_field(where, "geometry", geometry, "an object with 'type' and 'coordinates', or null")
    if geometry["type"] == "GeometryCollection":
        items = geometry.get("geometries") or []
        return [polygon for item in items for polygon in read_polygons(item, where=where)]
    coordinates = geometry.get("coordinates")
    if geometry["type"] not in ("Polygon", "MultiPolygon"):
        return []
    parts = [coordinates] if geometry["type"] == "Polygon" else coordinates
    if not isinstance(parts, list) or not all(isinstance(rings, list) for rings in parts):
        raise invalid_field(where, "coordinates", coordinates, f"the lists of a {geometry['type']}")
    polygons = []
    for rings in filter(None, parts):
        outer, *holes = [_ring(ring, where=where) for ring in rings]
        if len(outer):
            polygons.append([outer, *(hole for hole in holes if len(hole) > 2)])
    return polygons


def _ring(ring: Any, *, where: str) -> Points:
    """(N, 2) without the repeated last point, and without heights."""
    try:
        points = np.array([position[:2] for position in ring], dtype=np.float64).reshape(-1, 2)
    except (TypeError, ValueError, OverflowError):
        raise invalid_field(where, "coordinates", ring, "a ring of positions [x, y]") from None
    if not np.isfinite(points).all():
        raise invalid_field(where, "coordinates", ring, "a ring of finite positions [x, y]")
    is_closed = len(points) > 1 and bool((points[0] == points[-1]).all())
    return points[:-1] if is_closed else points


def invalid_field(where: str, field: str, value: Any, words: str) -> UserError:
    """The error about a field of a feature.

    Args:
        where: file and feature.
        field: its name.
        value: in the file.
        words: what the value must be.
    """
    return UserError(
        f"{where} has {field} {short_repr(value)}, which must be {words}. Correct it, or remove the feature."
    )


def epsg_of(content: Mapping[str, Any]) -> int | None:
    """The coordinate reference system that a file names in the member "crs"; None if it names none.

    Args:
        content: of the file.
    """
    crs = content.get("crs")
    properties = crs.get("properties") if isinstance(crs, dict) else None
    name = str(properties.get("name", "")) if isinstance(properties, dict) else ""
    if name.upper().endswith("CRS84"):
        return WGS84
    found = EPSG_NAME.search(name)
    return int(found[1]) if found else None


def pixel_coordinates(
    rings: Sequence[Points], image_size: ImageSize, reference: GeoReference | None, *, file: str, epsg: int | None
) -> Callable[[Points], Points]:
    """The function from the coordinates of a file to pixels of its image.

    They are the map coordinates of the image where at least as many of the points are in its extent on the map as
    in its pixels.

    Args:
        rings: all points of the file.
        image_size: (height, width).
        reference: of the image; None without map coordinates.
        file: for messages.
        epsg: of the file, see `epsg_of`.

    Raises:
        UserError: no polygon touches the image, with both extents.
    """
    points = np.concatenate([*rings, np.zeros((0, 2))])
    if not len(points):
        return _unchanged
    height, width = image_size
    pixels = np.array([[0.0, 0.0], [width, height]])
    extent = reference.extent(image_size) if reference else None
    if reference and extent is not None and _num_inside(points, extent) >= max(_num_inside(points, pixels), 1):
        return reference.to_pixels
    if _num_inside(points, pixels):
        return _unchanged
    if not reference and _num_inside(points, np.array([[0.0, -height], [width, 0.0]])):
        return _upside_down  # QGIS draws images without map coordinates below the axis
    if reference and extent is not None and _overlap(points, extent):
        return reference.to_pixels
    if not reference and _overlap(points, pixels):
        return _unchanged
    raise UserError(_no_overlap(points, image_size, reference, file=file, epsg=epsg))


def _no_overlap(
    points: Points, image_size: ImageSize, reference: GeoReference | None, *, file: str, epsg: int | None
) -> str:
    height, width = image_size
    given = _words(np.stack([points.min(axis=0), points.max(axis=0)]))
    system = f" (EPSG:{epsg})" if epsg else ""
    text = f"{file}: its coordinates{system} have {given}, all outside the image"
    seems_global = _num_inside(points, LONGITUDES_AND_LATITUDES) == len(points)
    if reference is None:
        return (
            f"{text} of {width} x {height} pixels, which has no map coordinates: neither GeoTIFF tags nor a world "
            "file. Give the coordinates in pixels, x to the right and y downwards, or use the GeoTIFF that they were "
            "drawn on."
        )
    own = f"EPSG:{reference.epsg}" if reference.epsg else "the image's coordinate reference system"
    text += f", which has {_words(reference.extent(image_size))} ({own}, from {reference.source})."
    text += " They seem to be longitudes and latitudes." if seems_global and reference.epsg != WGS84 else ""
    target = own if reference.epsg else "CRS_OF_THE_IMAGE"
    return (
        f"{text} Convert them to {own}: ogr2ogr -t_srs {target} new.geojson {Path(file).name}; or give them in pixels."
    )


def _words(extent: Points) -> str:
    (x1, y1), (x2, y2) = extent.tolist()
    return f"x from {x1:.10g} to {x2:.10g} and y from {y1:.10g} to {y2:.10g}"


def _num_inside(points: Points, extent: Points) -> int:
    return int(((points >= extent[0]) & (points <= extent[1])).all(axis=1).sum())


def _overlap(points: Points, extent: Points) -> bool:
    return bool(((points.min(axis=0) <= extent[1]) & (points.max(axis=0) >= extent[0])).all())


def _unchanged(points: Points) -> Points:
    return points


def _upside_down(points: Points) -> Points:
    return points * np.array([1.0, -1.0])

"""Writing of GeoJSON: polygons with holes, in the map coordinates of an image where it has some, else in its pixels."""

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrcnn_zoo.data.annotations.writing import DatasetWriter, Outline
from mrcnn_zoo.data.images.georeference import GeoReference, read_georeference, sidecar_files
from mrcnn_zoo.data.images.reading import FileImage
from mrcnn_zoo.data.masks import instance_area
from mrcnn_zoo.data.records import Dataset, ImageRecord, InstanceRecord
from mrcnn_zoo.ops import rle
from mrcnn_zoo.ops.outlines import outlines_of_mask
from mrcnn_zoo.ops.polygons import have_crossings, signed_area

IMAGE_FOLDER = "images"
DECIMALS = 3  # of pixels
WGS84, WGS84_NAME = 4326, "urn:ogc:def:crs:OGC:1.3:CRS84"  # longitude before latitude

Points = NDArray[np.float64]


def write_geojson(parts: Mapping[str, Dataset], folder: Path, writer: DatasetWriter) -> None:
    """Write a .geojson beside each image, in a folder per side, with the world file of the image.

    Args:
        parts: by side; by "" where there are no sides.
        folder: empty.
        writer: of all parts.

    Raises:
        UserError: an image that cannot be read.
    """
    for side, dataset in parts.items():
        target = folder / (side or IMAGE_FOLDER)
        target.mkdir(parents=True, exist_ok=True)
        for record in dataset.records:
            image = writer.place_image(record, target)
            if writer.copies_images and isinstance(record.source, FileImage):
                for file in sidecar_files(Path(record.source.path)):
                    shutil.copyfile(file, target / f"{writer.stem(record)}{file.suffix}")
            content = feature_collection(record, dataset.class_names, writer) | {"image": image}
            (target / f"{writer.stem(record)}.geojson").write_text(
                json.dumps(content, ensure_ascii=False), encoding="utf-8"
            )


def feature_collection(record: ImageRecord, class_names: Sequence[str], writer: DatasetWriter) -> dict[str, Any]:
    """The objects of an image as a FeatureCollection.

    The property "class" is for GIS, "classification" and "objectType" are QuPath's.

    Args:
        record: of the image.
        class_names: by class index.
        writer: gives the outlines.
    """
    reference = read_georeference(Path(record.source.path)) if isinstance(record.source, FileImage) else None
    content: dict[str, Any] = {"type": "FeatureCollection"}
    if reference is not None and reference.epsg:
        name = WGS84_NAME if reference.epsg == WGS84 else f"urn:ogc:def:crs:EPSG::{reference.epsg}"
        content["crs"] = {"type": "name", "properties": {"name": name}}
    content["features"] = [
        {
            "type": "Feature",
            "geometry": _geometry(_valid_outlines(record, instance, writer), reference),
            "properties": _properties(record, instance, class_names[instance.class_index], writer),
        }
        for instance in record.instances
    ]
    return content


def _properties(
    record: ImageRecord, instance: InstanceRecord, class_name: str, writer: DatasetWriter
) -> dict[str, Any]:
    place = [writer.place_of(record, instance)]
    writer.lost.add("keypoints left out", place if instance.keypoints is not None else [])
    writer.lost.add("boxes written as polygons of four corners", place if instance.segmentation is None else [])
    properties: dict[str, Any] = {
        "class": class_name,
        "classification": {"name": class_name},
        "objectType": "annotation",
        "area_pixels": instance_area(instance, record.image_size),
    }
    if instance.score is not None:
        properties["score"] = instance.score
    if instance.is_crowd:
        properties["crowd"] = True
    return properties


def _valid_outlines(record: ImageRecord, instance: InstanceRecord, writer: DatasetWriter) -> list[Outline]:
    """The outlines of an object; those of its mask where its polygons cross themselves or each other."""
    outlines = writer.outlines(record, instance)
    if instance.segmentation is None or isinstance(instance.segmentation, dict):
        return outlines
    if not have_crossings([_distinct(outline.points) for outline in outlines]):
        return outlines
    window = rle.decode_window(writer.mask(record, instance))
    if window is None:
        return outlines
    writer.lost.add("polygons that cross written as the outlines of their mask", [writer.place_of(record, instance)])
    return outlines_of_mask(window.bitmap, left=window.x, top=window.y, tolerance=writer.tolerance)


def _distinct(points: Points) -> Points:
    """The points without repetitions of the one before."""
    kept = points[(points != np.roll(points, 1, axis=0)).any(axis=1)]
    return kept if len(kept) else points[:1]


def _geometry(outlines: Sequence[Outline], reference: GeoReference | None) -> dict[str, Any]:
    polygons = [
        [
            _ring(outline.points, reference, is_hole=False),
            *(_ring(hole, reference, is_hole=True) for hole in outline.holes),
        ]
        for outline in outlines
    ]
    if len(polygons) == 1:
        return {"type": "Polygon", "coordinates": polygons[0]}
    return {"type": "MultiPolygon", "coordinates": polygons}


def _ring(points: Points, reference: GeoReference | None, *, is_hole: bool) -> list[list[float]]:
    """A closed ring, counter-clockwise if it is an outer one (RFC 7946, section 3.1.6).

    The direction is that of the numbers: outer rings in pixels, whose y points down, are clockwise on the screen.
    """
    decimals = DECIMALS
    if reference is not None:
        points = reference.to_map(points)
        decimals -= math.floor(math.log10(reference.pixel_size()))
    if (signed_area(points) > 0) == is_hole:
        points = np.roll(points[::-1], 1, axis=0)  # the first point stays
    ring: list[list[float]] = np.round(np.concatenate([points, points[:1]]), max(decimals, 0)).tolist()
    return ring

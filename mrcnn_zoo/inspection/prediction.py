"""A trained model on image files: pictures of what it sees, and a COCO-style file of it."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from mrcnn_zoo.data.array_images import ARRAY_SUFFIXES
from mrcnn_zoo.data.images import FileImage
from mrcnn_zoo.data.mapper import Mapper, TestMapper
from mrcnn_zoo.data.records import ImageRecord
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.evaluation.coco import coco_points
from mrcnn_zoo.evaluation.evaluator import inference
from mrcnn_zoo.evaluation.files import write_json
from mrcnn_zoo.inspection.draw import draw_instances
from mrcnn_zoo.inspection.pictures import save_picture
from mrcnn_zoo.structures import Detections

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm", *ARRAY_SUFFIXES)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedImage:
    """An image source whose pixels are there already."""

    name: str
    pixels: NDArray[np.generic]  # (H, W, C) RGB

    def read(self) -> NDArray[np.generic]:
        """The pixels."""
        return self.pixels


def predict_image(
    model: nn.Module, pixels: NDArray[np.generic], *, mapper: Mapper, image_id: int = 0, name: str = "image"
) -> Detections:
    """What the model finds in one image, in the image's own pixels.

    Args:
        model: with `predict(samples)`.
        pixels: (H, W, 3) RGB, or with as many channels as the model sees.
        mapper: resizes the image and orders its channels as the model wants them; see `build_test_mapper`.
        image_id: of the sample.
        name: for messages.
    """
    size = (int(pixels.shape[0]), int(pixels.shape[1]))
    record = ImageRecord(image_id=image_id, source=LoadedImage(name, pixels), image_size=size)
    sample = mapper(record, np.random.default_rng(0))
    with inference(model):
        return model.predict([sample])[0]  # type: ignore[operator]


def predict_files(
    model: nn.Module,
    inputs: Iterable[str | Path],
    output: str | Path,
    *,
    mapper: TestMapper,
    class_names: Sequence[str],
    category_ids: Sequence[int] = (),
    score_threshold: float,
) -> list[str]:
    """Draw what the model finds in image files, and write `predictions.json` in COCO's form.

    Args:
        model: with `predict(samples)`.
        inputs: files and folders; of a folder all images directly in it.
        output: gets `<image name>.png` and predictions.json.
        mapper: see `predict_image`.
        class_names: by class index.
        category_ids: of predictions.json, by class index; 1, 2, ... without them.
        score_threshold: detections below it are left out.

    Returns:
        A message for every image that could not be read; the others are done.

    Raises:
        UserError: no image at all, or an output that would overwrite the images.
    """
    files = image_files(inputs)
    categories = list(zip(category_ids or range(1, len(class_names) + 1), class_names, strict=True))
    pictures = _picture_paths(files, Path(output))
    failures: list[str] = []
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, (file, picture) in enumerate(zip(files, pictures, strict=True), start=1):
        try:
            pixels = mapper.reader.open(FileImage(str(file)))
        except UserError as error:
            failures.append(str(error))
            logger.error("%s", error)
            continue
        found = predict_image(model, pixels, mapper=mapper, image_id=image_id, name=str(file))
        found = found[found.scores >= score_threshold]
        save_picture(draw_instances(pixels, found, class_names), picture)
        images.append({"id": image_id, "file_name": str(file), "height": pixels.shape[0], "width": pixels.shape[1]})
        annotations += _annotations(found, image_id, categories, first_id=len(annotations) + 1)
        logger.info("%s: %d instances, drawn in %s", file, len(found), picture)
    content = {
        "images": images,
        "categories": [{"id": number, "name": name} for number, name in categories],
        "annotations": annotations,
    }
    write_json(Path(output) / "predictions.json", content)
    return failures


def image_files(inputs: Iterable[str | Path]) -> list[Path]:
    """The files themselves, and the images directly in the folders, sorted; no file twice.

    Raises:
        UserError: none of it is there.
    """
    files: list[Path] = []
    for place in map(Path, inputs):
        if place.is_dir():
            files += sorted(file for file in place.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
        else:
            files.append(place)
    if not files:
        raise UserError(f"no images to predict on: the folder has none of {', '.join(IMAGE_SUFFIXES)}.")
    return list(dict.fromkeys(files))


def _picture_paths(files: Sequence[Path], output: Path) -> list[Path]:
    originals = {file.resolve() for file in files}
    taken = set(originals)
    paths: list[Path] = []
    for file in files:
        path = output / f"{file.stem}.png"
        if path.resolve() in originals:
            raise UserError(f"--output {output} holds the images themselves, and {path} would be overwritten.")
        number = 1
        while path.resolve() in taken:  # images of one name from several folders
            number += 1
            path = output / f"{file.stem}_{number}.png"
        taken.add(path.resolve())
        paths.append(path)
    return paths


def _annotations(
    found: Detections, image_id: int, categories: Sequence[tuple[int, str]], *, first_id: int
) -> list[dict[str, Any]]:
    rles = [None] * len(found) if found.masks is None else found.masks.rles()
    points = [None] * len(found) if found.keypoints is None else coco_points(found)
    columns = zip(found.boxes.tolist(), found.scores.tolist(), found.classes.tolist(), rles, points, strict=True)
    annotations = []
    for number, ((x1, y1, x2, y2), score, index, rle, keypoints) in enumerate(columns, start=first_id):
        annotation: dict[str, Any] = {
            "id": number,
            "image_id": image_id,
            "category_id": categories[index][0],
            "category_name": categories[index][1],
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": score,
            "iscrowd": 0,
        }
        if rle is not None:
            annotation["segmentation"] = rle
        if keypoints is not None:
            annotation["keypoints"] = keypoints
        annotations.append(annotation)
    return annotations

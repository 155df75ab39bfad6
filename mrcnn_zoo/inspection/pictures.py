"""PNG files of training batches, predictions beside ground truth, and annotated datasets."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import nn

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.data.loading.mapper import check_size
from mrcnn_zoo.data.masks import segmentation_rle
from mrcnn_zoo.data.records import Dataset, ImageRecord
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.evaluation.class_mapping import predicts_classes
from mrcnn_zoo.evaluation.evaluator import build_prediction_loader, build_test_detector
from mrcnn_zoo.evaluation.ground_truth import bitmaps_of_rles
from mrcnn_zoo.inference.image_detector import inference
from mrcnn_zoo.inference.prediction import OBJECT
from mrcnn_zoo.inspection.canvas import Picture
from mrcnn_zoo.inspection.draw import Skeleton, draw_instances, draw_predictions, draw_training_batch
from mrcnn_zoo.output_files import write_atomically
from mrcnn_zoo.structures import Detections, Sample, Targets

SOFTWARE = ("Software", "mrcnn_zoo")  # PNG text entry of the pictures written here

logger = logging.getLogger(__name__)


def save_picture(picture: Picture, path: str | Path) -> Path:
    """Write a PNG; see `write_atomically`.

    Args:
        picture: (H, W, 3) uint8 RGB.
        path: of the PNG; its folder is created if needed.
    """
    software = PngInfo()
    software.add_text(*SOFTWARE)
    image = Image.fromarray(picture)
    return write_atomically(Path(path), lambda file: image.save(file, format="PNG", pnginfo=software))


def is_own_picture(path: Path) -> bool:
    """Whether a file was written by `save_picture`."""
    try:
        with Image.open(path) as image:
            return image.info.get(SOFTWARE[0]) == SOFTWARE[1]
    except (OSError, SyntaxError, ValueError):  # raised by Pillow for files that are not images
        return False


def save_training_batch(
    samples: Sequence[Sample],
    path: str | Path,
    class_names: Sequence[str],
    *,
    channel_order: str = "BGR",
    skeleton: Skeleton = (),
) -> Path:
    """Draw the augmented samples of a batch with their targets in one PNG.

    Args:
        samples: from the training loader.
        path: of the PNG.
        class_names: by class index.
        channel_order: of the images, INPUT.FORMAT.
        skeleton: keypoints to connect.
    """
    picture = draw_training_batch(samples, class_names, channel_order=channel_order, skeleton=skeleton)
    return save_picture(picture, path)


@dataclass(frozen=True)
class PredictionPicture:
    """Predictions for one image: the drawn picture, and what it shows.

    Args:
        path: of the PNG with ground truth and predictions side by side.
        record: of the image, with its annotations.
        detections: of at least VIS.SCORE_THRESH, in pixels of the image.
        class_names: of the annotations, by class index.
        predicted_names: of the detections, by class index; a single name for proposals.
    """

    path: Path
    record: ImageRecord
    detections: Detections
    class_names: Sequence[str]
    predicted_names: Sequence[str]


def save_predictions(
    model: nn.Module, dataset: Dataset, cfg: CfgNode, folder: str | Path, *, num_images: int
) -> list[Path]:
    """The files of `save_prediction_pictures`.

    Args:
        model: with `predict(samples)`; its training mode is restored.
        dataset: with or without annotations.
        cfg: of the model, with VIS.SCORE_THRESH.
        folder: of the files `<image id>.png`.
        num_images: maximum number of images.
    """
    pictures = save_prediction_pictures(model, dataset, cfg, folder, num_images=num_images)
    return [picture.path for picture in pictures]


def save_prediction_pictures(
    model: nn.Module, dataset: Dataset, cfg: CfgNode, folder: str | Path, *, num_images: int
) -> list[PredictionPicture]:
    """Draw ground truth and predictions side by side, for images at equal distances in the dataset.

    Args:
        model: with `predict(samples)`; its training mode is restored.
        dataset: with or without annotations.
        cfg: of the model, with VIS.SCORE_THRESH.
        folder: of the files `<image id>.png`.
        num_images: maximum number of images.

    Returns:
        The written pictures, and the predictions that they show.
    """
    chosen = replace(dataset, records=spread(dataset.records, num_images))
    if not chosen.records:
        return []
    model = build_test_detector(cfg, model, dataset)
    records = {record.image_id: record for record in chosen.records}
    # A single class name is not drawn, so proposals are not labelled with the first class.
    class_names = dataset.class_names if predicts_classes(model) else (OBJECT,)
    pictures = []
    with inference(model):
        for samples in build_prediction_loader(cfg, chosen, model):
            for sample, found in zip(samples, model.predict(samples), strict=True):  # type: ignore[operator]
                record = records[sample.image_id]  # type: ignore[index]
                picture = draw_predictions(
                    record.source.read(),
                    found,
                    record_targets(record) if record.instances else None,
                    class_names,
                    score_threshold=cfg.VIS.SCORE_THRESH,
                    skeleton=dataset.keypoint_skeleton,
                )
                path = save_picture(picture, Path(folder) / f"{sample.image_id}.png")
                shown = found[found.scores >= cfg.VIS.SCORE_THRESH]
                pictures.append(PredictionPicture(path, record, shown, dataset.class_names, class_names))
    return pictures


def save_dataset_images(dataset: Dataset, folder: str | Path, *, num_images: int) -> list[Path]:
    """Draw images at equal distances in the dataset with their annotations; unreadable files are logged and skipped.

    Args:
        dataset: with annotations.
        folder: of the files `<image id>.png`.
        num_images: maximum number of images.

    Returns:
        The written files.

    Raises:
        UserError: the dataset has no images.
    """
    if not dataset.records:
        raise UserError(f"{dataset.name} has no images, so there is nothing to draw. Check its definition.")
    paths = []
    for record in spread(dataset.records, num_images):
        try:
            image = record.source.read()
            check_size(record, image)
        except UserError as error:
            logger.error("%s", error)
            continue
        picture = draw_instances(image, record_targets(record), dataset.class_names, skeleton=dataset.keypoint_skeleton)
        paths.append(save_picture(picture, Path(folder) / f"{record.image_id}.png"))
    return paths


def save_training_batches(
    loader: Iterable[Sequence[Sample]],
    folder: str | Path,
    class_names: Sequence[str],
    *,
    channel_order: str = "BGR",
    num_batches: int,
    skeleton: Skeleton = (),
) -> list[Path]:
    """Draw the first batches of a training loader.

    Args:
        loader: yields batches of augmented samples.
        folder: of the files `train_batch_<number>.png`.
        class_names: by class index.
        channel_order: of the images, INPUT.FORMAT.
        num_batches: maximum number of batches.
        skeleton: keypoints to connect.

    Returns:
        The written files.
    """
    return [
        save_training_batch(
            samples,
            Path(folder) / f"train_batch_{number}.png",
            class_names,
            channel_order=channel_order,
            skeleton=skeleton,
        )
        for number, samples in enumerate(islice(loader, num_batches))
    ]


def spread(records: Sequence[ImageRecord], count: int) -> tuple[ImageRecord, ...]:
    """Choose records at equal distances, beginning with the first.

    Args:
        records: all records.
        count: maximum number of chosen records.
    """
    count = min(count, len(records))
    return tuple(records[number * len(records) // count] for number in range(count))


def record_targets(record: ImageRecord) -> Targets:
    """Annotations of an image, crowds included, in pixels of the file; the mask is empty for objects without one.

    Args:
        record: of the image.
    """
    rles = [
        segmentation_rle(instance.segmentation, record.image_size) if instance.segmentation else None
        for instance in record.instances
    ]
    return Targets(
        image_size=record.image_size,
        boxes=torch.tensor([instance.box for instance in record.instances], dtype=torch.float32).reshape(-1, 4),
        classes=torch.tensor([instance.class_index for instance in record.instances], dtype=torch.int64),
        masks=bitmaps_of_rles(rles, record.image_size),
        keypoints=_keypoints(record),
    )


def _keypoints(record: ImageRecord) -> torch.Tensor | None:
    counts = [len(instance.keypoints) for instance in record.instances if instance.keypoints]
    if not counts:
        return None
    unlabelled = (0.0,) * max(counts)
    return torch.tensor([instance.keypoints or unlabelled for instance in record.instances]).unflatten(1, (-1, 3))

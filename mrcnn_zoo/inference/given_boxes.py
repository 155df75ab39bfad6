"""Prediction of masks and keypoints in given boxes: those of a file or of the ground truth."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.data.given_boxes import BoxesOfImage, GivenBoxes, read_given_boxes
from mrcnn_zoo.data.paths import image_file_size
from mrcnn_zoo.data.records import Dataset, ImageRecord
from mrcnn_zoo.errors import UserError, counted
from mrcnn_zoo.inference.tta import build_augmented_detector
from mrcnn_zoo.structures import UNKNOWN_CLASS, Detections, ImageSize, Sample

GROUND_TRUTH = "ground_truth"  # the value of EVAL.GIVEN_BOXES for the boxes and classes of the annotations
NO_REGION_HEADS = ("RetinaNet", "ProposalNetwork", "Classifier")  # values of MODEL.META_ARCHITECTURE
NAMES_SHOWN = 3  # of images, in messages
# Maps a sample to its boxes, (R, 4) x1 y1 x2 y2 in pixels of the original image, and their classes, (R,) int64.
BoxSource = Callable[[Sample], tuple[Tensor, Tensor]]

logger = logging.getLogger(__name__)


class GivenBoxDetector(nn.Module):
    """Predicts masks and keypoints in given boxes instead of detected ones.

    Args:
        detector: with `predict_in_boxes(samples, boxes, classes)`.
        box_source: gives the boxes of a sample; their classes may be `UNKNOWN_CLASS`.
    """

    def __init__(self, detector: nn.Module, box_source: BoxSource) -> None:
        super().__init__()
        self.detector = detector
        self.box_source = box_source

    @property
    def resizes_images(self) -> bool:
        """Whether the detector resizes images itself, so that samples have the size of their files."""
        return getattr(self.detector, "resizes_images", False)

    def predict(self, samples: list[Sample]) -> list[Detections]:
        """One detection per given box, in the order of the boxes.

        Args:
            samples: images.
        """
        boxes, classes = zip(*map(self.box_source, samples), strict=True)
        return self.detector.predict_in_boxes(samples, list(boxes), list(classes))  # type: ignore[operator]


def build_given_box_detector(
    cfg: CfgNode,
    detector: nn.Module,
    box_source: BoxSource,
    *,
    option: str = "EVAL.GIVEN_BOXES",
    dataset: Dataset | None = None,
) -> nn.Module:
    """Wrap a detector so that it predicts in given boxes, with test-time augmentation if TEST.AUG.ENABLED.

    Args:
        cfg: of the detector.
        detector: with `predict_in_boxes`, such as `GeneralizedRCNN`.
        box_source: see `GivenBoxDetector`.
        option: key or option that names the boxes, for messages.
        dataset: see `build_augmented_detector`.

    Raises:
        UserError: the detector cannot predict in given boxes.
    """
    if isinstance(detector, GivenBoxDetector):
        return detector
    check_takes_boxes(cfg, option=option)
    if not hasattr(detector, "predict_in_boxes"):
        raise UserError(
            f"{option}: {type(detector).__name__} cannot predict in given boxes, because it has no "
            "`predict_in_boxes(samples, boxes, classes)`. Use a model with region heads, such as Mask R-CNN."
        )
    return GivenBoxDetector(build_augmented_detector(cfg, detector, dataset), box_source)


def check_takes_boxes(cfg: CfgNode, *, option: str) -> None:
    """Refuse models that cannot predict in given boxes.

    Args:
        cfg: of the model.
        option: key or option that names the boxes, for messages.

    Raises:
        UserError: MODEL.META_ARCHITECTURE has no region heads.
    """
    if cfg.MODEL.META_ARCHITECTURE in NO_REGION_HEADS:
        raise UserError(
            f"{option}: a {cfg.MODEL.META_ARCHITECTURE} (MODEL.META_ARCHITECTURE) has no region heads, so it cannot "
            "predict in given boxes. Use a model that has them, such as Mask R-CNN."
        )


def build_boxes_of_dataset(cfg: CfgNode, dataset: Dataset, class_rows: Sequence[int] | None = None) -> BoxSource:
    """The boxes of EVAL.GIVEN_BOXES for the images of a dataset.

    Args:
        cfg: of the run.
        dataset: the evaluated dataset.
        class_rows: class index of the model by class index of the dataset; None if they are equal.

    Raises:
        UserError: the file cannot be read or does not belong to the dataset; see `read_given_boxes`.
    """
    if cfg.EVAL.GIVEN_BOXES == GROUND_TRUTH:
        tables = {record.image_id: _of_ground_truth(record) for record in dataset.records}
    elif not Path(cfg.EVAL.GIVEN_BOXES).expanduser().is_file():
        raise UserError(
            f"EVAL.GIVEN_BOXES = {cfg.EVAL.GIVEN_BOXES!r} is neither {GROUND_TRUTH} nor a file: name a COCO file with "
            f"boxes, or {GROUND_TRUTH} for the boxes of the annotations."
        )
    else:
        tables = _of_file(read_given_boxes(cfg.EVAL.GIVEN_BOXES), dataset)
    rows = torch.arange(len(dataset.class_names)) if class_rows is None else torch.tensor(class_rows)

    def box_source(sample: Sample) -> tuple[Tensor, Tensor]:
        boxes, classes = tables[sample.image_id]  # type: ignore[index]
        return boxes, torch.where(classes == UNKNOWN_CLASS, UNKNOWN_CLASS, rows[classes.clamp(min=0)])

    return box_source


def _of_ground_truth(record: ImageRecord) -> tuple[Tensor, Tensor]:
    objects = [item for item in record.instances if not item.is_crowd]
    boxes = np.array([item.box for item in objects], dtype=np.float64).reshape(-1, 4)
    return _as_tensors(boxes, np.array([item.class_index for item in objects], dtype=np.int64))


def _of_file(given: GivenBoxes, dataset: Dataset) -> dict[int, tuple[Tensor, Tensor]]:
    found = {record.image_id: given.find(record.source.name, record.image_id) for record in dataset.records}
    names = [record.source.name for record in dataset.records if found[record.image_id] is None]
    _check_missing(given, names, len(dataset), owner=f"the images of {dataset.name}")
    images = [boxes for boxes in found.values() if boxes is not None]
    class_of_id = given.class_of_id(dataset.class_names, dataset.category_ids, images=images)
    tables = {}
    for record in dataset.records:
        boxes = found[record.image_id]
        if boxes is None:
            tables[record.image_id] = _as_tensors(np.zeros((0, 4)), np.zeros(0, dtype=np.int64))
            continue
        boxes.check_size(record.image_size, image=record.source.name, source=given.path)
        tables[record.image_id] = _as_tensors(boxes.boxes, boxes.classes(class_of_id))
    return tables


def boxes_of_files(given: GivenBoxes, files: Sequence[Path]) -> dict[str, BoxesOfImage]:
    """The boxes of image files, by path as text.

    Args:
        given: all boxes of a file.
        files: image files.

    Raises:
        UserError: the size of an image differs from the one given with its boxes, two files match the same boxes, or
            an image is not in a COCO dataset of boxes.
    """
    found = {str(file): given.find(str(file.absolute())) for file in files}
    missing = [name for name, boxes in found.items() if boxes is None]
    _check_missing(given, missing, len(files), owner="the images")
    tables: dict[str, BoxesOfImage] = {}
    taken: dict[int | str, str] = {}
    for name, boxes in found.items():
        if boxes is None:
            continue
        other = taken.setdefault(boxes.image_id, name)
        if other != name:
            raise UserError(
                f"{given.path}: the boxes of {boxes.file_name or boxes.image_id} match two images, {other} and {name}. "
                "Give one of them, or name the images in the file with their folders."
            )
        size = _size_of_readable(name)
        if size is not None:
            boxes.check_size(size, image=name, source=given.path)
        tables[name] = boxes
    unused = len(given.images) - len(tables)
    if unused:
        logger.info("%s: boxes of %s are not used", given.path, counted(unused, "other image"))
    return tables


def _size_of_readable(name: str) -> ImageSize | None:
    try:
        return image_file_size(Path(name))
    except UserError:
        return None  # reported when the image is read


def box_source_of_files(tables: Mapping[str, BoxesOfImage], class_of_id: Mapping[int, int]) -> BoxSource:
    """The boxes of samples by file name.

    Args:
        tables: boxes by `Sample.file_name`; samples of other files have none.
        class_of_id: category id -> class index.
    """

    def box_source(sample: Sample) -> tuple[Tensor, Tensor]:
        table = tables.get(sample.file_name)
        if table is None:
            return _as_tensors(np.zeros((0, 4)), np.zeros(0, dtype=np.int64))
        return _as_tensors(table.boxes, table.classes(class_of_id))

    return box_source


def _check_missing(given: GivenBoxes, missing: Sequence[str], count: int, *, owner: str) -> None:
    """Refuse images that are not in the file; some may be missing in a list of results, as images without boxes are."""
    for note in given.notes:
        logger.info("%s", note)
    if not missing:
        return
    if len(missing) < count and given.is_list:
        logger.warning("%s has no boxes for %d of %s: %s", given.path, len(missing), owner, _some(missing))
        return
    verb = "is" if len(missing) == 1 else "are"
    which = f"none of {owner} is" if len(missing) == count else f"{len(missing):,} of {owner} {verb} not"
    how = "the ids at the end of their file names" if given.is_list else "their file names, or by their ids"
    known = _some([image.file_name or str(image.image_id) for image in given.images]) or "no images"
    raise UserError(f"{given.path}: {which} in it ({_some(missing)}). They are matched by {how}; it has {known}.")


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMES_SHOWN:,} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more


def _as_tensors(boxes: np.ndarray, classes: np.ndarray) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(boxes).float(), torch.from_numpy(classes)

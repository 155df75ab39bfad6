"""Training samples as torchvision's reference scripts make them, for comparisons."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from pycocotools import mask as coco_mask
from torch import Tensor
from torchvision.datasets import CocoDetection
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.transforms import functional

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.data.images.reading import FileImage
from mrcnn_zoo.data.records import Dataset
from mrcnn_zoo.errors import UserError

# Of torchvision's `maskrcnn_resnet50_fpn`, for values of 0 to 1.
PIXEL_MEAN = (0.485, 0.456, 0.406)
PIXEL_STD = (0.229, 0.224, 0.225)

# The only values with which the reference scripts do the same work.
REQUIRED = {
    "MODEL.MASK_ON": True,
    "MODEL.KEYPOINT_ON": False,
    "INPUT.AUGMENTATIONS": [],
    "INPUT.CROP.ENABLED": False,
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": "choice",
    "INPUT.RANDOM_FLIP": "horizontal",
}

Target = dict[str, Tensor]


class TorchvisionPipeline:
    """Images and targets with masks, from a COCO file to the network's input.

    Source: references/detection of torchvision: `CocoDetection`, every polygon as a bitmap of the full image by
    pycocotools, a horizontal flip of the Pillow image, floats of 0 to 1. The resizing of images and masks, the
    normalisation and the padding are the first stage of torchvision's models.

    Args:
        folder: of the image files.
        annotation_file: COCO JSON.
        min_sizes: of the shortest side in pixels, one of which is drawn.
        max_size: of the longest side in pixels.
    """

    def __init__(self, folder: Path, annotation_file: Path, *, min_sizes: Sequence[int], max_size: int) -> None:
        with contextlib.redirect_stdout(None):  # pycocotools prints what it does
            self._files = CocoDetection(str(folder), str(annotation_file))
        self._rows = {image_id: row for row, image_id in enumerate(self._files.ids)}
        self._transform = GeneralizedRCNNTransform(list(min_sizes), max_size, PIXEL_MEAN, PIXEL_STD).train()

    def load(self, image_id: int, *, is_mirrored: bool) -> tuple[Tensor, Target]:
        """What the data loader returns.

        Args:
            image_id: in the COCO file.
            is_mirrored: whether left and right are exchanged.

        Returns:
            (3, H, W) float32 RGB of 0 to 1, and "boxes" (R, 4), "labels" (R,), "masks" (R, H, W) uint8.
        """
        image, annotations = self._files[self._rows[image_id]]
        target = self._target([item for item in annotations if not item["iscrowd"]], image)
        if is_mirrored:
            image = functional.hflip(image)
            target["boxes"][:, [0, 2]] = image.width - target["boxes"][:, [2, 0]]
            target["masks"] = target["masks"].flip(-1)
        return functional.convert_image_dtype(functional.pil_to_tensor(image), torch.float32), target

    def collate(self, samples: Sequence[tuple[Tensor, Target]]) -> tuple[ImageList, list[Target]]:
        """What the first stage of the model makes of a batch.

        Args:
            samples: of `load`.

        Returns:
            the padded images, and the targets in pixels of the resized ones.
        """
        images, targets = self._transform([image for image, _ in samples], [target for _, target in samples])
        return images, targets

    def _target(self, annotations: Sequence[dict[str, object]], image: Image.Image) -> Target:
        width, height = image.size
        boxes = torch.tensor([item["bbox"] for item in annotations], dtype=torch.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        boxes[:, 0::2].clamp_(0, width)
        boxes[:, 1::2].clamp_(0, height)
        bitmaps = []
        for item in annotations:
            decoded = coco_mask.decode(coco_mask.frPyObjects(item["segmentation"], height, width))
            bitmaps.append(torch.from_numpy(decoded.reshape(height, width, -1)).any(dim=2))
        masks = torch.stack(bitmaps) if bitmaps else torch.zeros((0, height, width), dtype=torch.uint8)
        is_kept = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
        labels = torch.tensor([item["category_id"] for item in annotations], dtype=torch.int64)
        return {"boxes": boxes[is_kept], "labels": labels[is_kept], "masks": masks[is_kept]}


def build_torchvision_pipeline(cfg: CfgNode, dataset: Dataset) -> TorchvisionPipeline:
    """torchvision's pipeline on the files of a dataset, with the sizes of a config.

    Args:
        cfg: INPUT, MODEL.MASK_ON.
        dataset: of a COCO file, with images in one folder.

    Raises:
        UserError: a setting that the reference scripts do not have, or a dataset that they do not read.
    """
    for key, required in REQUIRED.items():
        section, _, name = key.partition(".")
        value = cfg[section]
        for part in name.split("."):
            value = value[part]
        if value != required:
            raise UserError(f"torchvision's data pipeline has no {key} = {value!r}; set it to {required!r}.")
    sources = [record.source for record in dataset.records]
    folders = {Path(source.path).parent for source in sources if isinstance(source, FileImage)}
    if not dataset.annotation_file or len(folders) != 1:
        raise UserError(
            f"torchvision's data pipeline reads a COCO file with its images in one folder, which {dataset.name} is not."
        )
    return TorchvisionPipeline(
        folders.pop(),
        Path(dataset.annotation_file),
        min_sizes=cfg.INPUT.MIN_SIZE_TRAIN,
        max_size=cfg.INPUT.MAX_SIZE_TRAIN,
    )

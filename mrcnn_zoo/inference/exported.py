"""Programs of `mrcnn-zoo export` as detectors, whose images are resized and padded here."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mrcnn_zoo.checkpoint import WeightsFile
from mrcnn_zoo.config import CfgNode, config_from_text
from mrcnn_zoo.config.values import read_overrides
from mrcnn_zoo.data.transforms.resize import ResizeTransform, shortest_edge_size
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.export.programs import Program, read_program
from mrcnn_zoo.modeling.detectors.input_output import all_to_original_size
from mrcnn_zoo.structures import Detections, ImageSize, ProbabilityMasks, Sample

FIXED = ("MODEL.", "TEST.AUG.", "TEST.DETECTIONS_PER_IMAGE", "INPUT.FORMAT")  # parts of the config inside a program
NOT_FIXED = ("MODEL.DEVICE", "MODEL.WEIGHTS")


class ExportedDetector(nn.Module):
    """Predicts with a program on one image at a time.

    Args:
        program: of a detector.
        min_size: of the shortest side after resizing, in pixels; 0 keeps the size.
        max_size: of the longest side, in pixels.
    """

    resizes_images = True  # samples have the size of their image files
    needs_targets = False

    def __init__(self, program: Program, *, min_size: int, max_size: int) -> None:
        super().__init__()
        self.program = program
        self.min_size = min_size
        self.max_size = max_size

    @torch.no_grad()
    def predict(self, samples: list[Sample]) -> list[Detections]:
        """The instances of each image in the coordinates of its original size, best first.

        Args:
            samples: images of any size.
        """
        return all_to_original_size([self._detect(sample.image) for sample in samples], samples)

    def _detect(self, image: Tensor) -> Detections:
        """(C, H, W) -> detections in pixels of the resized image."""
        before = (int(image.shape[1]), int(image.shape[2]))
        size = fitting_size(before, self.program.size, min_size=self.min_size, max_size=self.max_size)
        resized = image if size == before else ResizeTransform(before, size).apply_image(image)
        pixels = torch.zeros((1, len(image), *self.program.size))
        pixels[0, :, : size[0], : size[1]] = resized
        boxes, scores, classes, count, *masks = self.program.run(pixels, torch.tensor(size))
        found = slice(0, int(count))
        table = Detections(size, boxes[found], scores[found], classes[found])
        if masks:
            table.masks = ProbabilityMasks(masks[0][found], table.boxes, size)
        return table


def fitting_size(size: ImageSize, limit: ImageSize, *, min_size: int, max_size: int) -> ImageSize:
    """The size of a resized image, scaled down where it is larger than the program's input.

    Args:
        size: (height, width) of the image.
        limit: (height, width) of the input.
        min_size: of the shortest side, in pixels; 0 keeps the size.
        max_size: of the longest side, in pixels.

    >>> fitting_size((640, 480), (800, 1344), min_size=800, max_size=1333)
    (800, 600)
    """
    resized = shortest_edge_size(size, min_size, max_size)
    if resized[0] <= limit[0] and resized[1] <= limit[1]:
        return resized
    factor = min(limit[0] / size[0], limit[1] / size[1])
    height, width = (max(1, min(int(side * factor + 0.5), most)) for side, most in zip(size, limit, strict=True))
    return height, width


def open_exported(
    path: Path, *, config: str | Path | None = None, overrides: Sequence[Any] = (), trust: Iterable[str] = ()
) -> tuple[CfgNode, WeightsFile, Program]:
    """The config and metadata of an exported program.

    Args:
        path: a file of `mrcnn-zoo export`.
        config: refused, as the program has its own.
        overrides: of keys that are not part of the program.
        trust: see `load_trained`.

    Raises:
        UserError: it cannot be read, or a setting would need another program.
    """
    if config is not None:
        raise UserError(f"{path} has its config inside: leave out --config-file (config=... in Python).")
    for item in read_overrides(overrides):
        name = ".".join(item.path)
        if name.startswith(FIXED) and name not in NOT_FIXED:
            raise UserError(f"{name} is part of the exported program {path}: set it at `mrcnn-zoo export` instead.")
        if name == "MODEL.DEVICE" and str(item.value) not in ("cpu", "auto"):
            raise UserError(
                f"MODEL.DEVICE = {item.value}: exported programs run on the CPU here. Leave the device out."
            )
    program = read_program(path)
    if "config" not in program.meta:
        raise UserError(f"{path} has no config in its metadata. Export the model again with `mrcnn-zoo export`.")
    cfg = config_from_text(
        program.meta["config"],
        source=f"the config in {path}",
        overrides=[*overrides, "MODEL.DEVICE", "cpu"],
        trust=trust,
    )
    return cfg, WeightsFile(str(path), weights={}, meta=dict(program.meta)), program


def build_exported_detector(cfg: CfgNode, program: Program) -> ExportedDetector:
    """The detector of a program, with the resizing of INPUT."""
    return ExportedDetector(program, min_size=cfg.INPUT.MIN_SIZE_TEST, max_size=cfg.INPUT.MAX_SIZE_TEST).eval()

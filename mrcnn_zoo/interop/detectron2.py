"""Detectron2's files, whose names are ours: backbones without a prefix, early PointRend names, written detectors."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from mrcnn_zoo.interop.converter import BackboneConverter
from mrcnn_zoo.interop.renaming import RenameTable
from mrcnn_zoo.interop.weights_file import write_weights
from mrcnn_zoo.registries import CHECKPOINT_CONVERTERS

# Names in files of early versions of Detectron2's PointRend project, and those of its later ones.
EARLY_POINTREND_NAMES = RenameTable(
    (
        ("roi_heads.mask_coarse_head.coarse_mask_", "roi_heads.mask_head.coarse_head."),
        ("roi_heads.mask_coarse_head.", "roi_heads.mask_head.coarse_head."),
        ("roi_heads.mask_point_head.", "roi_heads.mask_head.point_head."),
    )
)


@CHECKPOINT_CONVERTERS.register("relative_backbone")
def build_relative_backbone_converter() -> BackboneConverter:
    """Detectron2's ResNets saved without a detector around them."""
    return BackboneConverter(
        source="Detectron2 ResNet backbone",
        signature=("stem.conv1.weight", "stem.conv1.norm.weight", "res2.0.conv1.weight"),
    )


def save_detector(
    path: str | Path,
    weights: Mapping[str, Tensor],
    *,
    config: str,
    class_names: Sequence[str],
    category_ids: Sequence[int] = (),
    score_thresholds: Mapping[str, Any] | None = None,
    half: bool = False,
) -> None:
    """Write a detector with its config and class names.

    A `.pth` is Detectron2's: `{"model": weights}` under its names, and keys that its checkpointer ignores.

    Args:
        path: of the file, `.safetensors` or `.pth`; its folder is made.
        weights: under our names, which are Detectron2's.
        config: as `cfg.dump()` gives it.
        class_names: by class index; may be empty.
        category_ids: of the training data, by class index; may be empty.
        score_thresholds: those of highest F1, for `--threshold best`: "dataset" and "by_class".
        half: write the weights in half precision; a model of any precision loads them.

    Raises:
        UserError: another suffix, a weight that half precision cannot hold, or a file that cannot be written.
    """
    metadata: dict[str, Any] = {
        "config": config,
        "class_names": list(class_names),
        "category_ids": list(category_ids),
        **({"score_thresholds": dict(score_thresholds)} if score_thresholds else {}),
    }
    write_weights(Path(path), weights, metadata=metadata, half=half)

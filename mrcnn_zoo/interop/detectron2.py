"""Detectron2's names: backbones saved without a prefix, and detectors exported as single files."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from mrcnn_zoo.checkpoint.checkpointer import write_atomically
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.interop.converter import Converter
from mrcnn_zoo.interop.torchvision.export import to_torchvision
from mrcnn_zoo.registries import CHECKPOINT_CONVERTERS


@CHECKPOINT_CONVERTERS.register("relative_backbone")
def build_relative_backbone_converter() -> Converter:
    """Detectron2's ResNets saved without a detector around them."""
    return Converter(
        source="Detectron2 ResNet backbone",
        signature=("stem.conv1.weight", "stem.conv1.norm.weight", "res2.0.conv1.weight"),
    )


SAFETENSORS = ".safetensors"
PTH = ".pth"


def save_detector(
    path: str | Path,
    weights: Mapping[str, Tensor],
    *,
    config: str,
    class_names: Sequence[str],
    category_ids: Sequence[int] = (),
    half: bool = False,
) -> None:
    """Write a detector with the config and the class names that it is used with, as `.safetensors` or `.pth`.

    A `.pth` is Detectron2's: `{"model": weights}` under its names, and what its checkpointer passes over.

    Args:
        path: of the file; its folder is created.
        weights: under our names, which are Detectron2's.
        config: as `cfg.dump()` gives it.
        class_names: by class index; may be empty.
        category_ids: of the training data, by class index; may be empty.
        half: write the weights in half precision; a model of any precision loads them.

    Raises:
        UserError: another suffix, a weight that half precision cannot hold, or a file that cannot be written.
    """
    path = Path(path)
    prepared = _prepared(weights, half=half)
    if path.suffix == SAFETENSORS:
        texts = {"class_names": json.dumps(list(class_names)), "category_ids": json.dumps(list(category_ids))}
        _write(path, _safetensors(prepared, {"format": "pt", "config": config, **texts}))
    elif path.suffix == PTH:
        lists = {"class_names": list(class_names), "category_ids": list(category_ids)}
        _save(path, {"model": prepared, "config": config, **lists})
    else:
        raise UserError(f"{path} should end in {SAFETENSORS} or {PTH}.")


def save_for_torchvision(path: str | Path, weights: Mapping[str, Tensor], *, half: bool = False) -> None:
    """Write a detector as the state dict of torchvision's, bare, as `model.load_state_dict` takes it.

    Args:
        path: of the file, `.pth` or `.safetensors`; its folder is created.
        weights: under our names.
        half: write the weights in half precision.

    Raises:
        UserError: as for `save_detector`, or a detector that torchvision does not have.
    """
    path = Path(path)
    theirs = _prepared(to_torchvision(weights), half=half)
    if path.suffix == SAFETENSORS:
        _write(path, _safetensors(theirs, {"format": "pt"}))
    elif path.suffix == PTH:
        _save(path, theirs)
    else:
        raise UserError(f"{path} should end in {SAFETENSORS} or {PTH}.")


def _prepared(weights: Mapping[str, Tensor], *, half: bool) -> dict[str, Tensor]:
    """Copies on the CPU that share no memory: a view would be saved with all that it is a view of."""
    prepared = {}
    for name, tensor in weights.items():
        value = tensor.detach().cpu()
        if half and value.is_floating_point():
            halved = value.half()
            if not halved.isfinite().all() and value.isfinite().all():
                raise UserError(
                    f"{name} has values up to {float(value.abs().max()):.3g}, and half precision ends at "
                    f"{torch.finfo(torch.half).max:.0f}: write it in full precision."
                )
            value = halved
        prepared[name] = value.clone(memory_format=torch.contiguous_format)
    return prepared


def _safetensors(weights: dict[str, Tensor], metadata: dict[str, str]) -> bytes:
    from safetensors.torch import save

    return save(weights, metadata=metadata)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: file.write(content))


def _save(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: torch.save(content, file))

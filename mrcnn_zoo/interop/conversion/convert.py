"""Converts a file with a detector of any project for us, Detectron2 or torchvision."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor, nn

from mrcnn_zoo.checkpoint import LoadReport
from mrcnn_zoo.choices import CHECKPOINT_KINDS, DETECTRON2, OURS, TORCHVISION
from mrcnn_zoo.config import CfgNode, changed_config
from mrcnn_zoo.config.defaults import DETECTRON2_NAMES, KEYS_BY_NAME, PROJECT_OF_NAME
from mrcnn_zoo.config.trust import code_modules
from mrcnn_zoo.data.loading.mapper import EvalMapper, build_eval_mapper
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.inference.thresholds import STORED
from mrcnn_zoo.inference.trained import TrainedFile, open_trained
from mrcnn_zoo.interop.detectron2 import save_detector
from mrcnn_zoo.interop.torchvision.detectors import TorchvisionDetectorConverter
from mrcnn_zoo.interop.torchvision.export import save_for_torchvision, to_torchvision, with_torchvision_input
from mrcnn_zoo.interop.weights_file import PTH, SAFETENSORS
from mrcnn_zoo.output_files import write_text

DEVICE: str = KEYS_BY_NAME["MODEL.DEVICE"].default  # of the written config; conversion itself runs on the CPU
COMMAND = "convert-checkpoint"
# Parts of keys that do not change what a model computes at inference.
WITHOUT_EFFECT = ("INPUT.M", "_TRAIN", "IOU_THRESHOLDS", "SMOOTH_L1", "LOSS", "POSITIVE_FRACTION", "BATCH_SIZE", "NORM")


PLAIN_MODEL = ("MODEL.DEVICE", "cpu", "MODEL.OPTIMIZE", "none", "MODEL.DTYPE", "float32")


@dataclass(frozen=True)
class Converted:
    """A converted detector.

    Args:
        target: the written file.
        kind: of its reader, one of `CHECKPOINT_KINDS`.
        model: ours with the source's weights, on the CPU in evaluation mode.
        mapper: makes the samples of the model.
        color_order: of the samples, e.g. "RGB".
        source: the file that was read.
        notes: sentences about differences between our model and the reader's.
        modules: with code that the config names.
    """

    target: Path
    kind: str
    model: nn.Module
    mapper: EvalMapper
    color_order: str
    source: TrainedFile
    notes: tuple[str, ...]
    modules: tuple[str, ...]

    @property
    def report(self) -> LoadReport:
        """The status of each weight of the source."""
        return self.source.report


def convert_checkpoint(
    source: str | Path,
    target: str | Path,
    *,
    kind: str = OURS,
    config: str | Path | None = None,
    overrides: Sequence[Any] = (),
    half: bool = False,
    trust: Iterable[str] = (),
    meta: Mapping[str, Any] | None = None,
) -> Converted:
    """Read a detector, write it as `target`, and its config beside it as `<target's name>.yaml`.

    Args:
        source: as for `load_weights`.
        target: `.pth` or `.safetensors`.
        kind: of the reader: "ours", "detectron2" or "torchvision".
        config: of the source; None takes the one in the file, or derives it for a file of another project.
        overrides: on top of it.
        half: write the weights in half precision.
        trust: as for `load_trained`.
        meta: more about the source, for its converter.

    Raises:
        UserError: weights that do not fill their model, or a model that the reader does not have.
    """
    target = Path(target)
    check_target(target, kind)
    model, cfg, trained = open_trained(
        source, config=config, overrides=[*overrides, *PLAIN_MODEL], trust=trust, meta=meta
    )
    if kind == TORCHVISION:
        weights, notes = _weights_for_torchvision(model, cfg)
        save_for_torchvision(target, weights, half=half)
    else:
        notes = _notes_for_detectron2(cfg) if kind == DETECTRON2 else ()
        text = changed_config(cfg, {"MODEL.WEIGHTS": "", "MODEL.DEVICE": DEVICE}, source=COMMAND).dump()
        thresholds = trained.file.meta.get(STORED) or {}
        save_detector(
            target,
            model.state_dict(),
            config=text,
            class_names=trained.class_names,
            category_ids=trained.category_ids,
            # Without the iteration, which the file does not have.
            score_thresholds={key: thresholds[key] for key in ("dataset", "by_class") if key in thresholds},
            half=half,
        )
    # A file for torchvision has no place for a config.
    beside = changed_config(cfg, {"MODEL.WEIGHTS": str(target), "MODEL.DEVICE": DEVICE}, source=COMMAND)
    text = f"# Converted from {trained.file.source}.\n" + _changed_values(beside)
    write_text(target.with_suffix(".yaml"), text)
    return Converted(
        target,
        kind,
        model=model,
        mapper=build_eval_mapper(cfg),
        color_order=cfg.INPUT.FORMAT,
        source=trained,
        notes=notes,
        modules=code_modules(cfg),
    )


def check_target(target: Path, kind: str) -> None:
    """Refuse a target that its reader cannot read.

    Args:
        target: the file to write.
        kind: of the reader, one of `CHECKPOINT_KINDS`.

    Raises:
        UserError: an unknown kind, or a suffix that it does not read.
    """
    if kind not in CHECKPOINT_KINDS:
        raise UserError(f"{kind!r} is not one of {', '.join(CHECKPOINT_KINDS)}.")
    suffixes = (PTH,) if kind == DETECTRON2 else (PTH, SAFETENSORS)
    if target.suffix not in suffixes:
        raise UserError(f"{target} should end in {' or '.join(suffixes)} for {kind}.")


def _weights_for_torchvision(model: nn.Module, cfg: CfgNode) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Our weights for torchvision's input, under our names, and notes about settings in which its models differ.

    Raises:
        UserError: a part that torchvision does not have.
    """
    if cfg.MODEL.RESNETS.STRIDE_IN_1X1 and cfg.MODEL.RESNETS.DEPTH >= 50:
        raise UserError(
            "torchvision's ResNets have the stride in 3 x 3 convolutions, this one in 1 x 1 ones "
            "(MODEL.RESNETS.STRIDE_IN_1X1 True), so its weights would compute something else there."
        )
    weights = with_torchvision_input(
        model.state_dict(),
        color_order=cfg.INPUT.FORMAT,
        pixel_mean=cfg.MODEL.PIXEL_MEAN,
        pixel_std=cfg.MODEL.PIXEL_STD,
    )
    theirs = TorchvisionDetectorConverter().convert(to_torchvision(weights), {}).settings
    ignored = ("INPUT.FORMAT", "MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD")  # the first convolution is adapted to them
    notes = [
        f"torchvision's model has {key} = {value} where this one has {cfg.value_of(key)}"
        for key, value in theirs.items()
        if key not in ignored and not any(part in key for part in WITHOUT_EFFECT) and cfg.value_of(key) != value
    ]
    return weights, tuple(notes)


def _notes_for_detectron2(cfg: CfgNode) -> tuple[str, ...]:
    """Notes about settings that only we have, where they are not at their defaults."""
    theirs = DETECTRON2_NAMES | PROJECT_OF_NAME.keys()
    own = [key for key in KEYS_BY_NAME.values() if key.name not in theirs and key.name.startswith("MODEL.")]
    return tuple(
        f"Detectron2 has no {key.name} = {cfg.value_of(key.name)}; it computes as with {key.default!r}"
        for key in own
        if cfg.value_of(key.name) != key.default
    )


def _changed_values(cfg: CfgNode) -> str:
    """YAML of the values that are not the defaults."""

    def pruned(node: dict[str, Any], section: str) -> dict[str, Any]:
        kept: dict[str, Any] = {}
        for part, value in node.items():
            name = f"{section}{part}"
            if isinstance(value, dict) and name not in KEYS_BY_NAME:
                value = pruned(value, f"{name}.")
                is_default = not value
            else:
                is_default = name in KEYS_BY_NAME and KEYS_BY_NAME[name].default == value
            if not is_default:
                kept[part] = value
        return kept

    return yaml.safe_dump(pruned(yaml.safe_load(cfg.dump()), ""), default_flow_style=None, width=120)

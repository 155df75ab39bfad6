"""Settings of synthetic scenes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mrcnn_zoo.config import CfgNode, changed_config
from mrcnn_zoo.config.defaults import KEYS_BY_NAME
from mrcnn_zoo.data.field_rules import FIELD_RULES
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.registry import did_you_mean

SPLITS = ("train", "val")
DEFINITION_FIELDS = ("FORMAT", "SPLIT", "NUM_IMAGES")
SPLIT_KEYS = ("NUM_TRAIN", "NUM_VAL")


@dataclass(frozen=True, kw_only=True)
class SceneSettings:
    """The settings that determine the pixels of a scene, together with its split and index.

    The fields are the keys DATASETS.SCENES.* in lower case; see `mrcnn-zoo config explain DATASETS.SCENES`.
    """

    seed: int = 0
    image_size: tuple[int, int] = (128, 128)  # (height, width) in pixels
    num_objects: tuple[int, int] = (1, 6)
    object_size: tuple[float, float] = (24, 56)  # pixels
    max_overlap: float = 0.1  # largest IoU of two boxes
    min_visible: float = 0.7  # smallest visible share of an object's pixels
    rotation: float = 10.0  # largest angle in degrees, in either direction
    background: str = "texture"
    noise: float = 0.03  # of the full range
    min_contrast: float = 0.3  # of the full range
    invert_probability: float = 0.5
    is_color: bool = True
    digits_source: str = "embedded"


def build_scene_settings(cfg: CfgNode, definition: Mapping[str, Any], *, name: str) -> SceneSettings:
    """The settings of a dataset: DATASETS.SCENES, overridden by its definition.

    Args:
        cfg: DATASETS.SCENES.
        definition: the mapping under DATASETS.DEFINITIONS.
        name: of the dataset, for messages.

    Raises:
        UserError: an unknown field, or a value outside its range.
    """
    known = [key for key in cfg.DATASETS.SCENES if key not in SPLIT_KEYS]
    overrides = {key: value for key, value in definition.items() if key not in DEFINITION_FIELDS}
    for key in overrides:
        if key not in known:
            fields = [*DEFINITION_FIELDS, *known]
            raise UserError(
                f"Dataset {name!r}: {key!r} is not a field of synthetic scenes.{did_you_mean(key, fields)} "
                f"Known fields: {', '.join(fields)}."
            )
    where = f"DATASETS.DEFINITIONS.{name}"
    settings = {f"DATASETS.SCENES.{key}": value for key, value in overrides.items()}
    scenes = changed_config(cfg, settings, source=where).DATASETS.SCENES
    for key in known:
        problem = KEYS_BY_NAME[f"DATASETS.SCENES.{key}"].problem_of(scenes[key])
        if problem:
            raise UserError(f"{where if key in overrides else 'DATASETS.SCENES'}.{key} = {scenes[key]!r} {problem}")
    room = min(scenes.IMAGE_SIZE)
    if scenes.OBJECT_SIZE[1] > room:
        raise UserError(
            f"Dataset {name!r}: OBJECT_SIZE = {scenes.OBJECT_SIZE} must be at most the shorter side of IMAGE_SIZE "
            f"({room})."
        )
    return SceneSettings(
        seed=scenes.SEED,
        image_size=_pair(scenes.IMAGE_SIZE),
        num_objects=_pair(scenes.NUM_OBJECTS),
        object_size=_pair(scenes.OBJECT_SIZE),
        max_overlap=scenes.MAX_OVERLAP,
        min_visible=scenes.MIN_VISIBLE,
        rotation=scenes.ROTATION,
        background=scenes.BACKGROUND,
        noise=scenes.NOISE,
        min_contrast=scenes.MIN_CONTRAST,
        invert_probability=scenes.INVERT_PROBABILITY,
        is_color=scenes.IS_COLOR,
        digits_source=scenes.DIGITS_SOURCE,
    )


def build_scene_split(cfg: CfgNode, definition: Mapping[str, Any], *, name: str) -> tuple[str, int]:
    """The split ("train" or "val") and the number of scenes of a dataset.

    Args:
        cfg: DATASETS.SCENES.NUM_TRAIN and NUM_VAL.
        definition: the mapping under DATASETS.DEFINITIONS.
        name: of the dataset, for messages.

    Raises:
        UserError: another SPLIT, or a negative NUM_IMAGES.
    """
    split = definition.get("SPLIT", "train")
    if split not in SPLITS:
        raise UserError(f"Dataset {name!r}: SPLIT = {split!r} must be one of {', '.join(SPLITS)}.")
    scenes = cfg.DATASETS.SCENES
    length = definition.get("NUM_IMAGES", scenes.NUM_TRAIN if split == "train" else scenes.NUM_VAL)
    rule = FIELD_RULES["NUM_IMAGES"]
    if not rule.accepts(length):
        raise UserError(f"Dataset {name!r}: NUM_IMAGES = {length!r} must be {rule.words}.")
    return split, length


def _pair(values: Sequence[int]) -> tuple[int, int]:
    return values[0], values[1]

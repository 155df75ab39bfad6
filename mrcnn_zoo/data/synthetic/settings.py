"""Settings of synthetic scenes, with their checks."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mrcnn_zoo.config import CfgNode
from mrcnn_zoo.data.field_rules import FIELD_RULES, NumberRule
from mrcnn_zoo.errors import UserError
from mrcnn_zoo.registry import did_you_mean

BACKGROUNDS = ("plain", "gradient", "texture")
SPLITS = ("train", "val")
DEFINITION_FIELDS = ("FORMAT", "SPLIT", "NUM_IMAGES")
SPLIT_KEYS = ("NUM_TRAIN", "NUM_VAL")
MIN_OBJECT_SIDE = 8  # pixels; a smaller digit has no strokes
MAX_COUNT = 20_000  # pixels per side, objects per scene; more do not fit into memory
MAX_CONTRAST = 0.8  # leaves room for inks of different brightness


@dataclass(frozen=True, kw_only=True)
class SceneSettings:
    """The settings that determine the pixels of a scene, together with its split and index.

    The fields are the keys DATASETS.SCENES.* in lower case; see `mrcnn-zoo config explain DATASETS.SCENES`.

    Raises:
        UserError: a value outside its range.
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

    def __post_init__(self) -> None:
        _check(FIELD_RULES["SEED"].accepts(self.seed), "SEED", self.seed, FIELD_RULES["SEED"].words)
        _check_pair("IMAGE_SIZE", self.image_size, least=MIN_OBJECT_SIDE, is_whole=True)
        _check_pair("NUM_OBJECTS", self.num_objects, least=0, is_whole=True)
        _check_pair("OBJECT_SIZE", self.object_size, least=MIN_OBJECT_SIDE)
        for key, (smaller, larger) in (("NUM_OBJECTS", self.num_objects), ("OBJECT_SIZE", self.object_size)):
            _check(smaller <= larger, key, (smaller, larger), "the smaller number first")
        room = min(self.image_size)
        rule = f"at most the shorter side of IMAGE_SIZE ({room})"
        _check(self.object_size[1] <= room, "OBJECT_SIZE", self.object_size, rule)
        for name in ("max_overlap", "min_visible", "noise", "invert_probability"):
            _check_number(name.upper(), getattr(self, name), most=1)
        _check_number("MIN_CONTRAST", self.min_contrast, most=MAX_CONTRAST)
        _check_number("ROTATION", self.rotation, most=180)
        _check(self.background in BACKGROUNDS, "BACKGROUND", self.background, f"one of {', '.join(BACKGROUNDS)}")
        _check(isinstance(self.is_color, bool), "IS_COLOR", self.is_color, "true or false")
        _check(isinstance(self.digits_source, str), "DIGITS_SOURCE", self.digits_source, "'embedded' or a folder")


def build_scene_settings(cfg: CfgNode, definition: Mapping[str, Any], *, name: str) -> SceneSettings:
    """The settings of a dataset: DATASETS.SCENES, overridden by its definition.

    Args:
        cfg: DATASETS.SCENES.
        definition: the mapping under DATASETS.DEFINITIONS.
        name: of the dataset, for messages.

    Raises:
        UserError: an unknown field, or a value outside its range.
    """
    values = {key: value for key, value in cfg.DATASETS.SCENES.items() if key not in SPLIT_KEYS}
    for key, value in definition.items():
        if key in DEFINITION_FIELDS:
            continue
        if key not in values:
            known = [*DEFINITION_FIELDS, *values]
            raise UserError(
                f"Dataset {name!r}: {key!r} is not a field of synthetic scenes.{did_you_mean(key, known)} "
                f"Known fields: {', '.join(known)}."
            )
        values[key] = value
    try:
        return SceneSettings(
            seed=values["SEED"],
            image_size=_as_pair(values["IMAGE_SIZE"]),
            num_objects=_as_pair(values["NUM_OBJECTS"]),
            object_size=_as_pair(values["OBJECT_SIZE"]),
            max_overlap=values["MAX_OVERLAP"],
            min_visible=values["MIN_VISIBLE"],
            rotation=values["ROTATION"],
            background=values["BACKGROUND"],
            noise=values["NOISE"],
            min_contrast=values["MIN_CONTRAST"],
            invert_probability=values["INVERT_PROBABILITY"],
            is_color=values["IS_COLOR"],
            digits_source=values["DIGITS_SOURCE"],
        )
    except UserError as error:
        raise UserError(f"Dataset {name!r}: {error}") from error


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


def _as_pair(value: Any) -> tuple[Any, Any]:
    return tuple(value) if isinstance(value, (list, tuple)) else value  # others fail the check


def _check(is_valid: bool, key: str, value: object, rule: str) -> None:
    if not is_valid:
        shown = list(value) if isinstance(value, tuple) else value
        raise UserError(f"DATASETS.SCENES.{key} = {shown!r} must be {rule}.")


def _check_number(key: str, value: object, *, most: float) -> None:
    rule = NumberRule(words=f"a number from 0 to {most}", least=0, most=most)
    _check(rule.accepts(value), key, value, rule.words)


def _check_pair(key: str, value: object, *, least: float, is_whole: bool = False) -> None:
    words = f"two {'whole ' if is_whole else ''}numbers >= {least} and <= {MAX_COUNT}"
    rule = NumberRule(words=words, least=least, most=MAX_COUNT, is_whole=is_whole)
    is_valid = isinstance(value, tuple) and len(value) == 2 and all(map(rule.accepts, value))
    _check(is_valid, key, value, words)

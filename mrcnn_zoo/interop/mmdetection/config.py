"""Reads MMDetection's configs, Python files of assignments, as data; no code in them is run.

A checkpoint holds its config as the text of such a file, with all inheritance resolved. Values that are no plain data
are left out and listed.
"""

import ast
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mrcnn_zoo.config.files import read_text_file
from mrcnn_zoo.errors import UserError

SETTINGS_KEY = "settings"  # in the metadata of a file, for a config that the user gives
# The values of MMDetection's published base config for R-50-FPN, used where a checkpoint has none.
PUBLISHED: dict[str, Any] = {
    "data_preprocessor.mean": [123.675, 116.28, 103.53],
    "data_preprocessor.std": [58.395, 57.12, 57.375],
    "data_preprocessor.bgr_to_rgb": True,
    "backbone.style": "pytorch",
    "backbone.frozen_stages": 1,
    "rpn_head.anchor_generator.scales": [8],
    "rpn_head.anchor_generator.ratios": [0.5, 1.0, 2.0],
    "rpn_head.anchor_generator.strides": [4, 8, 16, 32, 64],
    "rpn_head.bbox_coder.target_stds": [1.0, 1.0, 1.0, 1.0],
    "roi_head.bbox_head.bbox_coder.target_stds": [0.1, 0.1, 0.2, 0.2],
    "roi_head.bbox_roi_extractor.roi_layer.output_size": 7,
    "roi_head.bbox_roi_extractor.featmap_strides": [4, 8, 16, 32],
    "roi_head.mask_roi_extractor.roi_layer.output_size": 14,
    "train_cfg.rpn.assigner.pos_iou_thr": 0.7,
    "train_cfg.rpn.assigner.neg_iou_thr": 0.3,
    "train_cfg.rpn_proposal.nms_pre": 2000,
    "train_cfg.rpn_proposal.max_per_img": 1000,
    "train_cfg.rcnn.assigner.pos_iou_thr": 0.5,
    "train_cfg.rcnn.assigner.neg_iou_thr": 0.5,
    "test_cfg.rpn.nms_pre": 1000,
    "test_cfg.rpn.max_per_img": 1000,
    "test_cfg.rpn.nms.iou_threshold": 0.7,
    "test_cfg.rcnn.score_thr": 0.05,
    "test_cfg.rcnn.nms.iou_threshold": 0.5,
    "test_cfg.rcnn.max_per_img": 100,
}


@dataclass(frozen=True)
class ForeignConfig:
    """The values of a config.

    Args:
        values: nested, as in the config.
        unreadable: the statements and values that are no plain data.
        is_present: False where the checkpoint holds no config.
    """

    values: dict[str, Any] = field(default_factory=dict)
    unreadable: tuple[str, ...] = ()
    is_present: bool = True


def read_config_file(path: Path) -> str | dict[str, Any]:
    """A config of MMDetection for `config_of`: the text of a .py file, or the values of a .json file.

    Raises:
        UserError: it is no text, or no JSON.
    """
    text = read_text_file(path)
    try:
        values = json.loads(text) if path.suffix == ".json" else text
    except (ValueError, RecursionError) as error:
        raise UserError(f"the config {path} is not valid JSON: {error}.") from error
    if not isinstance(values, str | dict):
        raise UserError(f"the config {path} should hold a mapping of settings, not a {type(values).__name__}.")
    return values


def config_of(meta: Mapping[str, Any]) -> ForeignConfig:
    """The config beside the weights of a checkpoint: a text or a dict under `cfg`, or the model's part alone.

    Args:
        meta: the checkpoint without its weights. MMDetection's config is in `meta["meta"]["cfg"]`, one that the user
            gives instead in `meta[SETTINGS_KEY]`.
    """
    inner = meta.get("meta")
    own = inner.get("cfg") if isinstance(inner, Mapping) else None
    for candidate in (meta.get(SETTINGS_KEY), own, meta.get("cfg")):
        if isinstance(candidate, str):
            return parse_config(candidate)
        if isinstance(candidate, Mapping):
            values = dict(candidate)
            return ForeignConfig(values if "model" in values else {"model": values})
    return ForeignConfig(is_present=False)


def parse_config(text: str) -> ForeignConfig:
    """The assignments of a config in Python's syntax with plain data: literals, dict(...) and earlier names.

    Args:
        text: of the config.
    """
    try:
        statements = ast.parse(text).body
    except SyntaxError as error:
        return ForeignConfig(unreadable=(f"line {error.lineno}: {(error.text or '').strip()}",))
    except (ValueError, RecursionError, MemoryError) as error:  # zero bytes, or brackets without end
        return ForeignConfig(unreadable=(str(error) or type(error).__name__,))
    reader = _Reader()
    for statement in statements:
        reader.take(statement)
    return ForeignConfig(reader.values, tuple(reader.unreadable))


class _NotDataError(Exception):
    """An expression that is no plain data."""


class _Reader:
    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.unreadable: list[str] = []

    def take(self, statement: ast.stmt) -> None:
        is_assignment = isinstance(statement, ast.Assign) and all(isinstance(t, ast.Name) for t in statement.targets)
        if not is_assignment:
            self.unreadable.append(ast.unparse(statement))
            return
        assert isinstance(statement, ast.Assign)
        try:
            value = self._value(statement.value)
        except _NotDataError:
            self.unreadable.append(ast.unparse(statement))
            return
        for target in statement.targets:
            assert isinstance(target, ast.Name)
            self.values[target.id] = value

    def _value(self, node: ast.expr) -> Any:
        if isinstance(node, ast.Dict):
            return self._entries([(self._key(key), value) for key, value in zip(node.keys, node.values, strict=True)])
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict" and not node.args:
            return self._entries([(word.arg, word.value) for word in node.keywords])
        if isinstance(node, ast.List):
            return [self._value(element) for element in node.elts]
        if isinstance(node, ast.Tuple):
            return tuple(self._value(element) for element in node.elts)
        if isinstance(node, ast.Name) and node.id in self.values:
            return self.values[node.id]
        try:
            return ast.literal_eval(node)
        except (ValueError, TypeError) as error:
            raise _NotDataError from error

    def _key(self, node: ast.expr | None) -> str | None:
        return str(self._value(node)) if node is not None else None

    def _entries(self, entries: list[tuple[str | None, ast.expr]]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key, node in entries:
            try:
                value = self._value(node)
            except _NotDataError:
                self.unreadable.append(f"{key} = {ast.unparse(node)}")
                continue
            if key is not None:
                values[key] = value
            elif isinstance(value, Mapping):  # **name
                values.update(value)
        return values


class MMDetectionModel:
    """The model's part of a config; records the assumed values.

    Args:
        config: as it was read.
    """

    def __init__(self, config: ForeignConfig) -> None:
        self.values = _with_old_places(config.values)
        self.assumed: list[str] = []

    def has(self, path: str) -> bool:
        """Whether the config has a value.

        Args:
            path: dotted.
        """
        return self._find(path) is not None

    def at(self, path: str, default: Any = None) -> Any:
        """A value of the config.

        Args:
            path: dotted.
            default: MMDetection's own, where the config has no value; with None, the value of its published config is
                used and added to `assumed`.
        """
        value = self._find(path)
        if value is not None:
            return value
        if default is None and path in PUBLISHED:
            self.assumed.append(f"{path} = {PUBLISHED[path]!r}")
            return PUBLISHED[path]
        return default

    def _find(self, path: str) -> Any:
        value: Any = self.values
        for part in path.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        return value


def _with_old_places(config: Mapping[str, Any]) -> dict[str, Any]:
    """The model's part, in which values that MMDetection 2.x has elsewhere are where 3.x has them."""
    model = dict(config["model"]) if isinstance(config.get("model"), Mapping) else {}
    for name in ("train_cfg", "test_cfg"):
        if not isinstance(model.get(name), Mapping) and isinstance(config.get(name), Mapping):
            model[name] = config[name]
    pixels = config.get("img_norm_cfg")
    if "data_preprocessor" not in model and isinstance(pixels, Mapping):
        model["data_preprocessor"] = {**pixels, "bgr_to_rgb": pixels.get("to_rgb", False)}
    return model

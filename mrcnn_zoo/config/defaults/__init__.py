"""Every config key with its default, unit and meaning, one module an area."""

from mrcnn_zoo.config.defaults import data, evaluation, model, run, solver
from mrcnn_zoo.config.keys import Key

ALL_KEYS: tuple[Key, ...] = tuple(
    key for area in (model, data, solver, evaluation, run) for key in area.DETECTRON2_KEYS + area.NEW_KEYS
)

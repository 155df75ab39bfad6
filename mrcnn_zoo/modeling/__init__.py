"""Detectors and the components they are built of, one folder a kind of component."""

from mrcnn_zoo.modeling.construction import build_model, resolve_device

__all__ = ["build_model", "resolve_device"]

"""mrcnn_zoo: Mask R-CNN as a modular, config-driven framework."""

__version__ = "0.1.0"

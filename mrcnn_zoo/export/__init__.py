"""Whole detectors as programs of fixed shapes, in the formats of ONNX and torch.export."""

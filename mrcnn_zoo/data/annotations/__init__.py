"""Annotation files of any format: detection, reading into datasets, writing."""

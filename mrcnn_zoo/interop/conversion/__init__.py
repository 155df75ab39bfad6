"""Conversion of whole detector files, and its check."""

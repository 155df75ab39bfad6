"""Helpers that tests of several folders import: `from support.references import find_case`."""

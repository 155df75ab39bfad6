"""Helpers of the tests, e.g. `from support.references import find_case`."""

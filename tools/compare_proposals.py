#!/usr/bin/env python
"""Equivalent to `mrcnn-zoo compare-proposals`."""

import sys

from mrcnn_zoo.cli.main import run_command

if __name__ == "__main__":
    sys.exit(run_command("compare-proposals"))

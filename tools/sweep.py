#!/usr/bin/env python
"""Equivalent to `mrcnn-zoo sweep run`."""

import sys

from mrcnn_zoo.cli.main import run_command

if __name__ == "__main__":
    sys.exit(run_command("sweep"))

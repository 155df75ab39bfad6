#!/usr/bin/env python
"""Equivalent to `mrcnn-zoo predict`, which takes the options of Detectron2's demo.py, too."""

import sys

from mrcnn_zoo.cli.main import run_command

if __name__ == "__main__":
    sys.exit(run_command("predict"))

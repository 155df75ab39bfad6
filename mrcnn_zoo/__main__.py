"""`python -m mrcnn_zoo`, the same as `mrcnn-zoo`."""

import sys

from mrcnn_zoo.cli.main import main

if __name__ == "__main__":
    sys.exit(main())

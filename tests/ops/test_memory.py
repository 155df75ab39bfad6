import subprocess
import sys

import pytest

COUNT_FAULTS = """
import resource
import numpy as np
from mrcnn_zoo.ops.memory import keep_freed_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def touch_64_megabytes():
    np.empty(8_000_000).fill(1.0)
def faults_of_four_blocks():
    touch_64_megabytes()
    before = faults()
    for _ in range(4):
        touch_64_megabytes()
    return faults() - before
default = faults_of_four_blocks()
print(default, faults_of_four_blocks() if keep_freed_memory() else "unsupported")
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallopt is glibc's")
def test_freed_blocks_are_reused_without_page_faults() -> None:
    done = subprocess.run([sys.executable, "-c", COUNT_FAULTS], capture_output=True, text=True, check=True)
    default, kept = done.stdout.split()
    if kept == "unsupported":
        pytest.skip("the C library is not glibc")
    # 4 x 64 MB are 62,500 pages of 4 KiB, or 125 of 2 MiB; reused memory has no page faults.
    assert int(kept) < 60
    assert int(default) > 100

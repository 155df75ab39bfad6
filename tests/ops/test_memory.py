import subprocess
import sys

import pytest

COUNT_FAULTS = """
import resource, sys
import numpy as np
from mrcnn_zoo.ops.memory import keep_freed_memory

if sys.argv[1] == "keep" and not keep_freed_memory():
    print("unsupported")
    raise SystemExit
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def touch_64_megabytes():
    np.empty(8_000_000).fill(1.0)
touch_64_megabytes()
before = faults()
for _ in range(4):
    touch_64_megabytes()
print(faults() - before)
"""


def count_faults(mode: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", COUNT_FAULTS, mode], capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallopt is glibc's")
def test_freed_blocks_are_reused_without_page_faults() -> None:
    kept = count_faults("keep")
    if kept == "unsupported":
        pytest.skip("the C library is not glibc")
    # 4 x 64 MB are 62,500 pages of 4 KiB, or 125 of 2 MiB; reused memory has no page faults.
    assert int(kept) < 60
    assert int(count_faults("default")) > 100

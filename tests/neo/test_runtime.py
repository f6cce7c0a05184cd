"""keep_freed_memory, in a process of its own, for it changes the whole process."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROBE = """
import resource, sys, torch
from neo.runtime import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory() is True
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        torch.zeros(2**24)  # 64 MB, above every dynamic threshold of glibc
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
for _ in range(8):  # the first blocks leave gaps of a few bytes between them; then it settles
    faults()
print(faults())
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc alone has these thresholds")
def test_kept_memory_is_not_faulted_in_again() -> None:
    counts = {
        how: int(
            subprocess.run(
                [sys.executable, "-c", PROBE, how], capture_output=True, text=True, check=True
            ).stdout
        )
        for how in ("keep", "leave")
    }
    assert counts["keep"] < 100  # the 16 384 pages of one tensor stay mapped
    assert counts["leave"] > 10 * counts["keep"]

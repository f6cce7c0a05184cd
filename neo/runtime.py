"""What a program may set about its process when it starts. Nothing here happens by importing neo."""

from __future__ import annotations

import ctypes
import sys

__all__ = ["keep_freed_memory"]

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # of glibc's malloc.h


def keep_freed_memory() -> bool:
    """Have the C library keep freed memory for the next tensor, in place of giving it back to the kernel.

    glibc returns blocks above a threshold at once, and takes the page faults of fetching them anew: on CPU tensors of
    some megabytes that costs more than the arithmetic. Call it once, where a program starts, before threads do: it
    raises the thresholds of the whole process (mallopt), whose resident size then stays near its peak.

    Returns: True if set; False where there is no glibc (macOS, Windows, musl), where nothing is changed.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    # One arena for all threads: a thread's own arena is cut into heaps of 64 MB, and gives them back one by one.
    return all(
        mallopt(*setting)
        for setting in ((_M_MMAP_THRESHOLD, 2**30), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_ARENA_MAX, 1))
    )

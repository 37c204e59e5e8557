"""Keeps a step's work space between steps, on Linux with glibc.

XLA's CPU backend asks the C library for all of a step's work space at its start and frees it at its
end. By default glibc gives so large a block back to the kernel each time, and the next step pays
for every page of it again.
"""

import ctypes
import sys

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Tells the C library to keep what is freed for the next step; False where it cannot."""
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    # One arena: the others live in small heaps and cannot hold a large block. mallopt gives 1 for
    # success.
    settings = ((_M_ARENA_MAX, 1), (_M_MMAP_THRESHOLD, _LARGEST), (_M_TRIM_THRESHOLD, _LARGEST))
    return all([mallopt(option, value) == 1 for option, value in settings])

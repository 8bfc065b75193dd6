"""Memory: keep what was freed for the next block.

glibc gives freed memory at the end of its heap back to the system at once, and the next block of a file gets it
again page by page. For loops that make and drop arrays of a megabyte that is a fifth of their time.
"""

import ctypes
import sys
from functools import cache

KEPT_BYTES = 64 << 20
"""So much freed memory stays with the process."""
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # from malloc.h


@cache
def keep_freed_memory() -> bool:
    """Tell the allocator, once in a process; False where it cannot be told (then nothing changes)."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return False
    values = ((_MMAP_THRESHOLD, KEPT_BYTES // 4), (_TRIM_THRESHOLD, KEPT_BYTES), (_TOP_PAD, KEPT_BYTES // 8))
    return all(mallopt(option, value) for option, value in values)

"""How the C library hands out memory: what a network frees is kept for its next result.

In: nothing. Out: a setting of this process. Apart, because it is about the machine and not about captions.

Every layer of a convolutional encoder makes tensors of megabytes and frees them soon after. As it comes, glibc gives such
blocks back to the system and fetches the next ones from there as pages of zeros, one fault for each 4 KiB: a tenth of the time
that torch takes for a run (benchmarks/RESULTS.md). Blocks beyond 32 MiB are given back all the same: they would leave holes in
the heap.

Source:
    glibc's manual, 3.2.3.7 Malloc Tunable Parameters; mallopt(3).
"""

import ctypes
import os
from collections.abc import Mapping

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # malloc.h
_KEPT = 2**28  # bytes at the end of the heap that are not given back
_LARGEST_BLOCK = 2**25  # bytes up to which a block comes from the heap; the most that every glibc allows
_CORES_OF_A_HEAP = 4  # that share one; more would wait for each other
_CHOSEN_BY = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_ARENA_MAX", "GLIBC_TUNABLES")


def keep_freed_memory(environment: Mapping[str, str] = os.environ) -> bool:
    """Let this process keep the memory that it frees, in one heap for the threads of a few cores.

    Args:
        environment: Its variables; whoever tunes glibc by them has chosen, and nothing is changed.

    Returns:
        Whether something was changed; False without glibc.
    """
    if any(name in environment for name in _CHOSEN_BY):
        return False
    try:
        os.confstr("CS_GNU_LIBC_VERSION")
        mallopt = ctypes.CDLL(None).mallopt
    except (ValueError, AttributeError, OSError):  # another C library
        return False
    heaps = max(1, (os.cpu_count() or 1) // _CORES_OF_A_HEAP)  # all but the first one have 64 MiB, and are given back whole
    settings = ((_ARENA_MAX, heaps), (_TRIM_THRESHOLD, _KEPT), (_MMAP_THRESHOLD, _LARGEST_BLOCK))
    return all(mallopt(name, value) for name, value in settings)

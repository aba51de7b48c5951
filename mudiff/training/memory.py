"""How this process keeps its memory."""

import ctypes

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # names of parameters in glibc's malloc.h, M_...
_PAD = 64 * 2**20  # bytes


def keep_freed_memory() -> bool:
    """Let the C library keep what is freed, for the next tensor of that size.

    Training and sampling make and free the same large tensors over and over. By default glibc gives each
    back to the system, which fills it with zeros, page by page, when it is asked for again: on the CPU a
    tenth of the time at 256x256. With this the process holds its peak memory until it ends.

    Returns
    -------
    bool
        Whether the C library has such a choice; without it nothing changes.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):  # Windows; macOS and musl have no mallopt
        return False
    return all(
        mallopt(name, value) for name, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1), (_TOP_PAD, _PAD))
    )

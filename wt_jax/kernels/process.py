"""The memory of this process: the C library keeps what a step frees."""

import ctypes
import platform

# glibc's parameters (malloc.h) and what they are set to: one heap for all threads, no block mapped for itself, and nothing
# given back at the heap's end.
_ONE_HEAP, _NO_MAPPED_BLOCKS, _NO_TRIMMING = (-8, 1), (-4, 0), (-1, -1)


def keep_freed_memory() -> None:
    """Have the C library keep what is freed, where it is glibc; elsewhere nothing happens.

    On a CPU, XLA allocates a step's arrays at its beginning and frees them at its end. Blocks of that size would go back to
    the system, which hands them out again page by page, cleared: a seventh of the step's time and more. What the process
    holds then stays at its highest.
    """
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        for parameter, value in (_ONE_HEAP, _NO_MAPPED_BLOCKS, _NO_TRIMMING):
            library.mallopt(parameter, value)

"""Memory for weights and KV pages, in huge pages where the system gives them."""

from __future__ import annotations

import mmap
import sys
from contextlib import suppress

import torch

_HUGE_PAGE = 2 << 20
_BLOCK = 64 << 20
_ALIGN = 4096
_MADV_POPULATE_WRITE = 23  # Python's mmap has no name for it.


class WeightArena:
    """Hands out slices of large blocks, one after the other. A block is freed with its last slice.

    A decode step streams all weights once. In contiguous huge pages they take few address translations, and the
    hardware's prefetcher does not stop at every 4 KiB. The system gives memory only as it is written.
    """

    def __init__(self) -> None:
        self._block = torch.empty(0, dtype=torch.uint8)

    def take(self, size: int) -> torch.Tensor:
        """A new uint8 tensor of `size` bytes at a multiple of 4096."""
        reserved = -(-size // _ALIGN) * _ALIGN
        if reserved > len(self._block):
            self._block = huge_block(max(reserved, _BLOCK))
        taken, self._block = self._block[:size], self._block[reserved:]
        return taken


def huge_block(size: int, present: bool = False) -> torch.Tensor:
    """Zero bytes [size] uint8 at a multiple of 2 MiB. The system gives memory only as it is written.

    present: take all memory at once, if the system can (Linux 5.14).
    """
    # Private: Python's default is shared memory, a file for the kernel, which gets no huge pages on most systems.
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    pages = mmap.mmap(-1, size + _HUGE_PAGE, flags=flags)
    if sys.platform == "linux":
        pages.madvise(mmap.MADV_HUGEPAGE)
        if present:
            with suppress(OSError):  # An older kernel.
                pages.madvise(_MADV_POPULATE_WRITE)
    block = torch.frombuffer(pages, dtype=torch.uint8)
    start = -block.data_ptr() % _HUGE_PAGE
    return block[start : start + size]

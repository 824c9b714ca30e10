"""Templates and tokenization off the event loop, in threads where a long text does not hold up short ones."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from gllm.gateway.protocol.errors import overloaded

T = TypeVar("T")

LONG_TEXT = 64 * 1024
"""Characters from which on a text counts as long: tens of milliseconds of tokenization."""
MAX_LONG_TEXT = 128 * 1024 * 1024
"""Characters of long texts that may wait or be in work at once."""
LONG_NICENESS = 10
RETRY_AFTER = 5


class TextThreads:
    """Two threads for short texts and one for long ones, whose CPU share gives way to everything else.

    The tokenizers library releases the interpreter lock, so the event loop goes on meanwhile.
    """

    def __init__(self) -> None:
        self._short = ThreadPoolExecutor(max_workers=2, thread_name_prefix="text")
        self._long = ThreadPoolExecutor(max_workers=1, thread_name_prefix="long-text", initializer=_give_way)
        self._waiting = 0

    async def run(self, num_chars: int, work: Callable[[], T]) -> T:
        """`work()` of a text of so many characters. Raises ApiError 429 when too much text waits."""
        loop = asyncio.get_running_loop()
        if num_chars < LONG_TEXT:
            return await loop.run_in_executor(self._short, work)
        if self._waiting and self._waiting + num_chars > MAX_LONG_TEXT:
            raise overloaded("Too many long prompts wait to be tokenized.", RETRY_AFTER)
        future = self._long.submit(work)
        self._waiting += num_chars
        # A client that leaves cancels what waits, not what runs: the text counts until its thread is done with it.
        future.add_done_callback(lambda _: loop.call_soon_threadsafe(self._leave, num_chars))
        return await asyncio.wrap_future(future)

    def _leave(self, num_chars: int) -> None:
        self._waiting -= num_chars

    def close(self) -> None:
        """Drop what waits for a thread."""
        for pool in (self._short, self._long):
            pool.shutdown(wait=False, cancel_futures=True)


def _give_way() -> None:
    """Linux has a niceness for each thread; the tokenizers library must not hand the work to threads of its own."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LONG_NICENESS)

"""Threads for templates and tokenization, in which long texts do not delay short ones."""

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
"""A text of this many characters is long: it takes tens of milliseconds to tokenize."""
MAX_LONG_TEXT = 128 * 1024 * 1024
"""Limit of the characters of long texts that wait or are tokenized."""
LONG_NICENESS = 10
RETRY_AFTER = 5


class TextThreads:
    """Two threads for short texts, and one with low priority for long texts.

    The tokenizers library releases the interpreter lock, so the event loop runs meanwhile.
    """

    def __init__(self) -> None:
        self._short = ThreadPoolExecutor(max_workers=2, thread_name_prefix="text")
        self._long = ThreadPoolExecutor(max_workers=1, thread_name_prefix="long-text", initializer=_give_way)
        self._waiting = 0

    async def run(self, num_chars: int, work: Callable[[], T]) -> T:
        """Return `work()` for a text of `num_chars` characters. Raises ApiError 429 when too much text waits."""
        loop = asyncio.get_running_loop()
        if num_chars < LONG_TEXT:
            return await loop.run_in_executor(self._short, work)
        if self._waiting and self._waiting + num_chars > MAX_LONG_TEXT:
            raise overloaded("Too many long prompts wait to be tokenized.", RETRY_AFTER)
        future = self._long.submit(work)
        self._waiting += num_chars
        # A disconnect cancels waiting work but not running work, so the text counts until its thread has finished.
        future.add_done_callback(lambda _: loop.call_soon_threadsafe(self._leave, num_chars))
        return await asyncio.wrap_future(future)

    def _leave(self, num_chars: int) -> None:
        self._waiting -= num_chars

    def close(self) -> None:
        """Drop the work that waits for a thread."""
        for pool in (self._short, self._long):
            pool.shutdown(wait=False, cancel_futures=True)


def _give_way() -> None:
    """Lower this thread's priority; on Linux each thread has its own niceness.

    It takes effect only if the tokenizers library works in the calling thread (TOKENIZERS_PARALLELISM=false).
    """
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LONG_NICENESS)

"""Long texts wait for long texts only, run with low priority, and are bounded in number."""

from __future__ import annotations

import asyncio
import os
import threading
import time

import pytest

from gllm.gateway.protocol.errors import ApiError
from gllm.gateway.shared import text_threads
from gllm.gateway.shared.text_threads import LONG_NICENESS, LONG_TEXT, MAX_LONG_TEXT, TextThreads


def test_short_texts_pass_long_ones() -> None:
    threads = TextThreads()
    release = threading.Event()

    async def scenario() -> None:
        long = [asyncio.create_task(threads.run(LONG_TEXT, release.wait)) for _ in range(3)]
        await asyncio.sleep(0)
        assert await asyncio.wait_for(threads.run(LONG_TEXT - 1, lambda: "short"), 5) == "short"
        assert not any(task.done() for task in long)
        release.set()
        assert await asyncio.gather(*long) == [True] * 3

    asyncio.run(scenario())
    threads.close()


def test_only_long_texts_have_low_priority() -> None:
    threads = TextThreads()

    def niceness() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    async def scenario() -> tuple[int, int]:
        return await threads.run(1, niceness), await threads.run(LONG_TEXT, niceness)

    short, long = asyncio.run(scenario())
    assert short == niceness()
    assert long == max(niceness(), LONG_NICENESS)
    threads.close()


def test_too_much_text_is_429_and_cancelled_text_counts_until_it_is_done() -> None:
    threads = TextThreads()
    release = threading.Event()

    async def scenario() -> None:
        running = asyncio.create_task(threads.run(MAX_LONG_TEXT, release.wait))
        await asyncio.sleep(0.01)
        running.cancel()
        with pytest.raises(ApiError) as error:
            await threads.run(LONG_TEXT, lambda: None)
        assert (error.value.status, error.value.retry_after) == (429, text_threads.RETRY_AFTER)
        release.set()
        deadline = time.monotonic() + 5
        while threads._waiting:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.001)
        assert await threads.run(2 * MAX_LONG_TEXT, lambda: "alone") == "alone"

    asyncio.run(scenario())
    threads.close()

"""Send requests at their times: conversations in order, at most so many in flight."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Sequence

from gllm.apps.bench.record import RequestRecord
from gllm.apps.bench.requests import BenchRequest


async def drive(
    requests: Sequence[BenchRequest],
    send: Callable[[BenchRequest], Awaitable[RequestRecord]],
    *,
    run_start: float,
    max_concurrency: int | None = None,
    max_duration: float = math.inf,
    on_done: Callable[[RequestRecord], None] = lambda record: None,
) -> list[RequestRecord]:
    """Send every request; return the records of those that were sent, in order.

    Args:
        run_start: `time.perf_counter()` at the start of the run, from which arrival times count.
        max_concurrency: more requests wait. A conversation counts as one from its first request to the end of its last.
        max_duration: no request is sent later than these seconds.
        on_done: called as each request ends.
    """
    gate = asyncio.Semaphore(max_concurrency or max(len(requests), 1))

    async def chain(links: list[BenchRequest]) -> list[RequestRecord]:
        """Send requests one after another; what follows a failed one is not sent."""
        delay = min(links[0].arrival, max_duration) - (time.perf_counter() - run_start)
        if delay > 0:
            await asyncio.sleep(delay)
        records: list[RequestRecord] = []
        async with gate:
            for request in links:
                if time.perf_counter() - run_start >= max_duration or (records and not records[-1].ok):
                    break
                record = await send(request)
                records.append(record)
                on_done(record)
        return records

    parts = await asyncio.gather(*(chain(links) for links in _chains(requests)))
    return sorted((record for part in parts for record in part), key=lambda record: record.index)


def _chains(requests: Sequence[BenchRequest]) -> list[list[BenchRequest]]:
    """Return the requests of each conversation together; others alone."""
    chains: dict[tuple[bool, int], list[BenchRequest]] = {}
    for request in requests:
        alone = request.conversation is None
        key = (alone, request.index if request.conversation is None else request.conversation)
        chains.setdefault(key, []).append(request)
    return list(chains.values())

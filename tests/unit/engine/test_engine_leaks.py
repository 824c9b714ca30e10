"""Ten thousand requests, many of them aborted, leak nothing."""

from __future__ import annotations

import asyncio
import os
import random
from contextlib import suppress

from engine_harness import Engine, WorkerThread, converse, settings, until

from gllm.engine.client.client import EngineClient
from gllm.sampling_params import SamplingParams


def test_ten_thousand_requests_leave_no_page_no_request_and_no_descriptor(run_dir: str) -> None:
    config = settings(run_dir, max_num_seqs=32, max_prefill_tokens=512)
    engine = Engine(config)
    WorkerThread(config, num_pages=256)
    draw = random.Random(0)

    async def one(client: EngineClient, number: int) -> str:
        sampling = SamplingParams(max_tokens=draw.randint(1, 6), ignore_eos=True)
        stream = client.generate(str(number), [draw.randrange(50)] * draw.randint(1, 40), sampling)
        how = draw.choice(["read", "read", "close", "cancel"])
        if how == "close":
            await anext(stream)
            await stream.aclose()
        elif how == "cancel":
            task = asyncio.ensure_future(anext(stream))
            await asyncio.sleep(0)
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        else:
            assert sum([len(output.token_ids) async for output in stream]) == sampling.max_tokens
        return how

    async def talk(client: EngineClient) -> None:
        gate = asyncio.Semaphore(200)

        async def gated(number: int) -> str:
            async with gate:
                return await one(client, number)

        await asyncio.gather(*(gated(-number) for number in range(1, 101)))
        descriptors = len(os.listdir("/proc/self/fd"))
        ways = await asyncio.gather(*(gated(number) for number in range(10_000)))
        assert {ways.count(how) > 2000 for how in ("read", "close", "cancel")} == {True}
        assert client.num_live == 0
        await until(lambda: not engine.scheduler.has_work)
        assert engine.scheduler.pool.free_share == 1.0
        assert engine.scheduler.stats().num_running == engine.scheduler.stats().num_waiting == 0
        assert len(os.listdir("/proc/self/fd")) == descriptors

    converse(config, talk, timeout=120)
    engine.stop()

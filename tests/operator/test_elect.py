"""Leader election over an API server in memory, on a clock that the test moves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from fixtures.kube_memory import MemoryApi
from gllm_operator.kube.api import ApiError
from gllm_operator.kube.elect import Elector

pytestmark = pytest.mark.timing


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def api() -> MemoryApi:
    return MemoryApi()


@pytest.fixture
def clock() -> Clock:
    return Clock()


def elector(api: MemoryApi, clock: Callable[[], float], name: str, every: float = 0.02) -> Elector:
    return Elector(api, "default", "lease", name, duration=15, renew_every=every, monotonic=clock)


def test_a_silent_leader_is_replaced_after_the_lease_duration(api: MemoryApi, clock: Clock) -> None:
    async def go() -> None:
        first, second = elector(api, clock, "first"), elector(api, clock, "second")
        await first.acquire()
        assert first.leads
        waiting = asyncio.create_task(second.acquire())
        await asyncio.sleep(0.1)
        assert not waiting.done()
        clock.now += 14
        assert not first.leads, "the lease is given up before another may take it"
        await asyncio.sleep(0.1)
        assert not second.leads
        clock.now += 2
        await asyncio.wait_for(waiting, 2)
        assert second.leads
        assert not first.leads

    asyncio.run(go())


def test_a_leader_that_renews_is_not_replaced(api: MemoryApi, clock: Clock) -> None:
    async def go() -> None:
        first, second = elector(api, clock, "first"), elector(api, clock, "second")
        await first.acquire()
        keeping, waiting = asyncio.create_task(first.keep()), asyncio.create_task(second.acquire())
        for _ in range(30):
            clock.now += 3
            await asyncio.sleep(0.03)
        assert first.leads
        assert not waiting.done()
        keeping.cancel()
        waiting.cancel()

    asyncio.run(go())


def test_a_leader_that_cannot_renew_stops(api: MemoryApi, clock: Clock) -> None:
    async def go() -> None:
        first = elector(api, clock, "first")
        await first.acquire()

        def cut(verb: str, name: str, done: bool) -> None:
            raise ApiError(0, "Unreachable", "cut off")

        api.fail = cut
        keeping = asyncio.create_task(first.keep())
        await asyncio.sleep(0.1)
        assert not keeping.done()
        clock.now += 11
        await asyncio.wait_for(keeping, 2)
        assert not first.leads

    asyncio.run(go())


def test_a_leader_that_leaves_hands_over_at_once(api: MemoryApi, clock: Clock) -> None:
    async def go() -> None:
        first, second = elector(api, clock, "first"), elector(api, clock, "second")
        await first.acquire()
        waiting = asyncio.create_task(second.acquire())
        await first.release()
        await asyncio.wait_for(waiting, 2)
        assert (first.leads, second.leads) == (False, True)

    asyncio.run(go())


def test_a_leader_outlives_other_writers_of_its_lease(api: MemoryApi, clock: Clock) -> None:
    """Tools that apply the chart again write to the Lease, or create it again. The leader keeps it either way."""

    async def go() -> None:
        first, second = elector(api, clock, "first"), elector(api, clock, "second")
        await first.acquire()
        keeping = asyncio.create_task(first.keep())
        for number in range(3):
            (lease,) = api.of_kind("Lease")
            api.edit(lease, lambda one, number=number: one["metadata"].update(annotations={"applied": str(number)}))
            await asyncio.sleep(0.05)
            assert first.leads
        (lease,) = api.of_kind("Lease")
        api.edit(lease, lambda one: one.pop("spec"))
        await asyncio.sleep(0.05)
        assert first.leads
        # A holder that has taken it is respected.
        (lease,) = api.of_kind("Lease")
        api.edit(lease, lambda one: one["spec"].update(holderIdentity=second.identity))
        await asyncio.wait_for(keeping, 2)
        assert not first.leads

    asyncio.run(go())

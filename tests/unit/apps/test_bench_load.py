"""When requests are sent: the processes of arrivals, the flags that choose them, and the order of conversations."""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from typing import Any

import pytest

from gllm.apps.bench.arrivals import Arrivals, arrival_times, arrivals_rng, parse_stages
from gllm.apps.bench.datasets.load import Dataset
from gllm.apps.bench.driver import drive
from gllm.apps.bench.record import RequestRecord
from gllm.apps.bench.requests import BenchRequest
from gllm.apps.cli.bench.load_flags import LoadFlags


def gaps(arrivals: Arrivals, count: int = 4000) -> list[float]:
    times = arrivals.times(count, seed=1)
    assert times == sorted(times)
    assert times == arrivals.times(count, seed=1)
    assert times != arrivals.times(count, seed=2)
    return [after - before for before, after in itertools.pairwise(times)]


@pytest.mark.parametrize("burstiness", [0.25, 1.0, 4.0])
def test_gaps_have_the_mean_of_the_rate_and_the_spread_of_burstiness(burstiness: float) -> None:
    drawn = gaps(Arrivals(rate=5.0, burstiness=burstiness), 20_000)
    assert statistics.fmean(drawn) == pytest.approx(0.2, rel=0.06)
    # A gamma distribution of shape k has a coefficient of variation of 1 / sqrt(k).
    assert statistics.stdev(drawn) / statistics.fmean(drawn) == pytest.approx(burstiness**-0.5, rel=0.06)


def test_poisson_is_the_default_and_has_not_changed() -> None:
    assert Arrivals(rate=3.0).times(50, 7) == arrival_times(50, 3.0, arrivals_rng(7))


@pytest.mark.parametrize(("ramp", "middle"), [("linear", 5.5), ("exponential", 10**0.5)])
def test_ramps(ramp: Any, middle: float) -> None:
    drawn = gaps(Arrivals(ramp=ramp, start=1.0, end=10.0), 40_000)
    rate = [1 / statistics.fmean(drawn[at : at + 800]) for at in (0, 19_600, 39_100)]
    assert rate == pytest.approx([1.0, middle, 10.0], rel=0.25)


def test_stages() -> None:
    arrivals = Arrivals(stages=parse_stages("20:50,2:100,40:25"))
    count = arrivals.count_of_stages(3)
    times = arrivals.times(count, 3)
    assert len(times) == count == pytest.approx(1000 + 200 + 1000, rel=0.1)
    parts = [sum(low <= time < high for time in times) for low, high in ((0, 50), (50, 150), (150, 175))]
    assert parts == [pytest.approx(1000, rel=0.15), pytest.approx(200, rel=0.3), pytest.approx(1000, rel=0.15)]
    assert max(times) < 175
    for wrong in ("", "2", "2:0", "-1:5", "a:b", "2:inf"):
        with pytest.raises(ValueError, match="--rate-stages must look like"):
            parse_stages(wrong)


CPU = Dataset(workload="cpu")


def test_numbers_of_requests() -> None:
    assert LoadFlags().plan(CPU).count == 128
    assert LoadFlags().plan(Dataset(name="random")).count is None
    assert LoadFlags(rate_stages="10:20").plan(CPU).count == pytest.approx(200, rel=0.3)
    assert LoadFlags(rate_stages="10:20", num_prompts=5).plan(CPU).count == 5
    assert LoadFlags(steady=True, max_concurrency=100).plan(CPU).count == 250
    # Enough for the duration, whatever the workload's own number is.
    assert (LoadFlags(request_rate="50").plan(CPU, 60.0).count or 0) > 3000
    assert LoadFlags(request_rate="trace").plan(CPU).arrivals is None


@pytest.mark.parametrize(
    ("flags", "error"),
    [
        ({"request_rate": "2", "rate_stages": "1:1"}, "--request-rate and --rate-stages both say"),
        ({"burstiness": 2.0}, "add --request-rate"),
        ({"ramp_up_strategy": "linear"}, "needs --ramp-up-start-rps"),
        ({"ramp_up_start_rps": 2.0}, "need --ramp-up-strategy"),
        ({"steady": True, "max_concurrency": 4, "rate_stages": "1:1"}, "leave out the ramp or stages"),
        ({"steady": True, "max_concurrency": 4, "request_rate": "trace"}, "leave out --request-rate trace"),
        ({"rate_stages": "0.0001:0.001"}, "has no request"),
    ],
)
def test_flags_that_do_not_fit(flags: dict[str, Any], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        LoadFlags(**flags).plan(CPU)


def requests_of(*conversations: int | None) -> list[BenchRequest]:
    return [BenchRequest(index, [1], 1, 0.0, conversation=which) for index, which in enumerate(conversations)]


def test_a_turn_waits_for_the_one_before_and_conversations_run_beside_each_other() -> None:
    log: list[tuple[str, int]] = []

    async def send(request: BenchRequest) -> RequestRecord:
        log.append(("start", request.index))
        await asyncio.sleep(0.01)
        log.append(("end", request.index))
        return RequestRecord(index=request.index, prompt_tokens=1, error="no" if request.index == 1 else "")

    requests = requests_of(0, 0, 0, 1, 1, None)
    records = asyncio.run(drive(requests, send, run_start=time.perf_counter(), max_concurrency=2))
    assert [record.index for record in records] == [0, 1, 3, 4, 5]  # 2 follows a failed turn
    for before, after in ((0, 1), (3, 4)):
        assert log.index(("end", before)) < log.index(("start", after))
    assert log[:2] == [("start", 0), ("start", 3)]
    live = peak = 0
    for kind, _ in log:
        live += 1 if kind == "start" else -1
        peak = max(peak, live)
    assert peak == 2


def test_nothing_is_sent_after_the_duration() -> None:
    async def send(request: BenchRequest) -> RequestRecord:
        await asyncio.sleep(0.02)
        return RequestRecord(index=request.index, prompt_tokens=1)

    async def run() -> list[RequestRecord]:
        return await drive(requests, send, run_start=time.perf_counter(), max_duration=0.5)

    requests = [BenchRequest(index, [1], 1, 0.1 * index) for index in range(100)]
    started = time.perf_counter()
    assert 1 <= len(asyncio.run(run())) <= 5
    assert time.perf_counter() - started < 5

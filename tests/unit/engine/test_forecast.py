"""What an engine tells gateways about new prompts, against the times that they then have in the simulator."""

from __future__ import annotations

from statistics import median

import pytest

from gllm.apps.bench.workloads import WORKLOADS, make_requests
from gllm.apps.simulate.hardware import Hardware, StageTimes
from gllm.apps.simulate.simulation import Simulation
from gllm.config import EngineConfig, PolicyName
from gllm.engine.scheduler import Scheduler
from gllm.engine.sequence import Sequence
from gllm.engine.time_model import chunk_pairs
from gllm.wire.forecast import PrefillForecast

STAGE = StageTimes(a=2e-3, floor=10e-3, b=1e-4, d=1e-7)


def seconds(forecast: PrefillForecast, tokens: int) -> float:
    return forecast.waiting + forecast.token * tokens + forecast.pair * chunk_pairs(0, tokens)


@pytest.mark.parametrize("pp", [1, 4])
@pytest.mark.parametrize("policy", ["balanced", "chunked_prefill"])
def test_predicted_waits_are_those_of_the_simulator(
    policy: PolicyName, pp: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    predicted: dict[str, float] = {}
    add = Scheduler.add

    def note(scheduler: Scheduler, seq: Sequence) -> None:
        predicted[seq.request_id] = seconds(scheduler.stats().forecast, seq.num_prompt)
        add(scheduler, seq)

    monkeypatch.setattr(Scheduler, "add", note)
    requests = make_requests(WORKLOADS["azure"], 120, seed=2, rate=6.0 * pp)
    config = EngineConfig(model="", policy=policy, enable_prefix_caching=False, pp=pp)
    hardware = Hardware(stages=(STAGE,) * pp, kv_tokens=400_000)
    records = Simulation(config, hardware, requests, seed=1).run().records
    waits = list(predicted.values())
    assert waits[0] == 0.0, "nothing is measured before the first step"
    pairs = sorted((record.ttft, wait) for record, wait in zip(records, waits, strict=True))[1:]
    ratios = [wait / ttft for ttft, wait in pairs]
    # Too short under load: requests that arrive later decode beside the waiting ones.
    assert 0.45 < median(ratios) < 1.5, ratios
    half = len(pairs) // 2
    assert sum(wait for _, wait in pairs[half:]) > 1.5 * sum(wait for _, wait in pairs[:half]), "long waits are seen"

"""A simulated run in the web page: what is recorded is what the simulation did, and it plays in its order and time."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import httpx
import pytest

from gllm.apps.bench.workloads import WORKLOADS, make_requests
from gllm.apps.simulate.hardware import Hardware, StageTimes
from gllm.apps.simulate.replay import Recorder, Replay, replay_app
from gllm.apps.simulate.simulation import Outcome, Simulation
from gllm.config import EngineConfig

STAGE = StageTimes(a=1e-3, floor=2e-3, b=2e-5, c=1e-9, d=2e-8, e=5e-6)


def record(name: str = "balanced", *, policy: Any = "balanced") -> tuple[Recorder, Outcome]:
    recorder = Recorder(name, 3, 50_000, 16)
    config = EngineConfig(model="", policy=policy, enable_prefix_caching=False)
    requests = make_requests(WORKLOADS["cpu"], 30, seed=3, rate=100.0)
    pipeline = Hardware(stages=(STAGE,) * 3, kv_tokens=50_000)
    return recorder, Simulation(config, pipeline, requests, seed=1, recorder=recorder).run()


def data(frames: list[bytes], kind: str = "pipeline") -> list[dict[str, Any]]:
    parts = [one.decode().removesuffix("\n\n").split("\ndata: ") for one in frames]
    return [json.loads(body) for event, body in parts if event == f"event: {kind}"]


def test_the_recording_has_what_the_simulation_did() -> None:
    recorder, outcome = record()
    events = data([frame for _, frame in recorder.frames])
    sent = [one for message in events for one in message["sent"]]
    dropped = sum(message["dropped"] for message in events)
    assert len(sent) + dropped == len(outcome.works)
    for one in sent:
        work = outcome.works[one["step"] - 1]
        assert (one["prefill_tokens"], one["decode_tokens"]) == (work.prefill_tokens, work.decode_rows)
    runs = [one for message in events for one in message["stages"]]
    assert runs
    for one in runs:
        start, seconds = outcome.intervals[one["step"] - 1][one["stage"]]
        assert (one["start"], one["seconds"]) == (pytest.approx(start), pytest.approx(seconds))
    assert all(message["clock_shifts"] == [0, 0, 0] for message in events), "simulated clocks agree"


def test_runs_play_together_at_their_own_speed_and_end() -> None:
    runs = [record(name, policy=name)[0] for name in ("balanced", "chunked_prefill")]
    length = max(run.frames[-1][0] for run in runs)

    async def play() -> bytes:
        transport = httpx.ASGITransport(replay_app(Replay("a test", runs)))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            assert (await client.get("/ready")).json()["simulated"] is True
            assert (await client.get("/", headers={"Accept": "text/html"})).text.startswith("<!doctype html>")
            return (await client.get("/pipeline/events", timeout=30)).content

    began = time.monotonic()
    frames = [one + b"\n\n" for one in asyncio.run(play()).split(b"\n\n") if one]
    assert time.monotonic() - began >= length - runs[0].frames[0][0]
    assert data(frames, "hello")[0]["simulated"] is True
    assert [one["engine"] for one in data(frames, "state")[0]["engines"]] == ["balanced", "chunked_prefill"]
    assert {message["engine"] for message in data(frames)} == {"balanced", "chunked_prefill"}
    times = [message["time"] for message in data(frames)]
    assert times == sorted(times)
    assert data(frames[-1:], "end") == [{}]

"""GET /pipeline/events: the events of the engine for every viewer, and what happens to slow ones and at the end."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from gateway_fakes import FakeEngine, RunningServer, make_server, wait_until

from gllm.gateway.shared import viewers
from gllm.wire.messages import EngineStats, Hello, StageStats
from gllm.wire.pipeline_events import BatchSent, PipelineEvents

PATH = "/pipeline/events"


class WatchedEngine(FakeEngine):
    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def watch(self, seconds: float) -> dict[str, Hello]:
        self.asked += 1
        return {"": self.hello} if self.hello is not None else {}


@pytest.fixture
def server() -> Iterator[RunningServer]:
    with make_server(engine=WatchedEngine(), api_key="s3cret") as server:
        yield server


def events(lines: Iterator[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    kind = ""
    for line in lines:
        if line.startswith("event: "):
            kind = line[7:]
        elif line.startswith("data: "):
            yield kind, json.loads(line[6:])


def send(server: RunningServer, step: int) -> None:
    batch = BatchSent(step=step, time=9.0, prefill_tokens=5, decode_tokens=2, num_sequences=3, rows=[(1, 5)])
    stats = EngineStats(num_running=3, kv_usage=0.25, stages=[StageStats(busy=0.5, bubble=0.1, step_time=0.02)])
    server.call(lambda: server.engine.on_events("", PipelineEvents(time=9.5, sent=[batch]), stats))


def client(server: RunningServer) -> httpx.Client:
    return httpx.Client(base_url=server.url, headers={"Authorization": "Bearer s3cret"}, timeout=10)


def test_it_needs_the_key(server: RunningServer) -> None:
    assert httpx.get(server.url + PATH).status_code == 401


def test_every_viewer_gets_what_the_engine_sends(server: RunningServer) -> None:
    with client(server) as http, http.stream("GET", PATH) as one, http.stream("GET", PATH) as other:
        assert one.headers["content-type"].startswith("text/event-stream")
        for answer in (one, other):
            kinds = events(answer.iter_lines())
            kind, hello = next(kinds)
            assert (kind, hello["model"], hello["pp"], hello["simulated"]) == ("hello", "tiny", 1, False)
            assert next(kinds)[1]["ready"] is True
            send(server, 7)
            while (found := next(kinds))[0] != "pipeline":
                pass
            assert found[1]["sent"][0] == {
                "step": 7,
                "time": 9.0,
                "prefill_tokens": 5,
                "decode_tokens": 2,
                "num_sequences": 3,
                "rows": [[1, 5]],
            }
            assert found[1]["stats"]["kv_usage"] == 0.25
            assert found[1]["stats"]["stages"][0]["bubble"] == 0.1


def test_the_engine_is_asked_only_while_somebody_watches(server: RunningServer) -> None:
    assert server.engine.asked == 0
    with client(server) as http, http.stream("GET", PATH) as answer:
        lines = answer.iter_lines()  # httpx closes the connection when this is garbage
        next(lines)
        wait_until(lambda: server.engine.asked > 0)
    wait_until(lambda: not server.gateway.viewers._viewers)
    asked = server.engine.asked
    threading.Event().wait(1.2)
    assert server.engine.asked == asked


def test_a_lost_engine_is_told_with_the_reason_and_so_is_the_next_one(server: RunningServer) -> None:
    with client(server) as http, http.stream("GET", PATH) as answer:
        kinds = events(answer.iter_lines())
        assert [next(kinds)[0], next(kinds)[0]] == ["hello", "state"]
        server.call(lambda: server.gateway.engine_lost("worker-1 was killed", 60))
        kind, state = next(kinds)
        assert (kind, state["ready"]) == ("state", False)
        assert "worker-1 was killed" in state["reason"]
        server.call(lambda: setattr(server.engine, "hello", server.engine.up))
        while not (found := next(kinds)[1]).get("ready"):
            pass
        assert found["reason"] is None


def test_a_slow_viewer_loses_frames_and_learns_how_many(server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(viewers, "MAX_FRAMES", 4)
    with client(server) as http, http.stream("GET", PATH) as answer:
        kinds = events(answer.iter_lines())
        next(kinds)

        def flood() -> None:
            for step in range(11):
                server.engine.on_events("", PipelineEvents(time=float(step)), EngineStats())

        server.call(flood)
        found = []
        while not found or found[-1][1].get("time") != 10.0:
            found.append(next(kinds))
        assert [one["frames"] for kind, one in found if kind == "lost"] == [8]
        assert len(found) < 11


def test_too_many_viewers_are_refused(server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(viewers, "MAX_VIEWERS", 1)
    with client(server) as http, http.stream("GET", PATH) as answer:
        lines = answer.iter_lines()  # httpx closes the connection when this is garbage
        assert next(lines) == "event: hello"
        with http.stream("GET", PATH) as refused:  # `get` would read for ever, were it not refused
            assert refused.status_code == 429
            assert json.loads(refused.read())["error"]["code"] == "too_many_viewers"
            assert refused.headers["retry-after"] == "5"


def test_a_drain_ends_the_streams_and_refuses_new_ones(server: RunningServer) -> None:
    with client(server) as http:
        with http.stream("GET", PATH) as answer:
            lines = answer.iter_lines()
            next(lines)
            server.call(lambda: setattr(server.gateway, "draining", True))
            assert list(lines)
        assert http.get(PATH).status_code == 503

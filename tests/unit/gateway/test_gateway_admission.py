"""429 when full, 503 when not ready, decided before headers; /health and /ready."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest
from gateway_fakes import FakeEngine, RunningServer, wait_until

from gllm.config import GatewayConfig
from gllm.gateway.protocol.errors import ApiError
from gllm.gateway.shared.admission import Admission

BODY = {"prompt": "a"}


class Background:
    """Requests that stay in the server while the engine waits."""

    def __init__(self, server: RunningServer, *bodies: dict[str, Any]) -> None:
        self.answers: list[httpx.Response] = []
        self._threads = [threading.Thread(target=self._send, args=(server.url, body)) for body in bodies]
        for thread in self._threads:
            thread.start()

    def _send(self, url: str, body: dict[str, Any]) -> None:
        self.answers.append(httpx.post(f"{url}/v1/completions", json=body, timeout=20))

    def join(self) -> list[httpx.Response]:
        for thread in self._threads:
            thread.join(20)
        return self.answers


@pytest.mark.parametrize("stream", [False, True])
def test_queue_full(start: Callable[..., RunningServer], stream: bool) -> None:
    server = start(engine=FakeEngine(max_num_seqs=2), max_queued_requests=1)
    server.engine.hold_at = 0
    held = Background(server, {**BODY, "n": 2})
    wait_until(lambda: server.gateway.admission.live == 2)
    # n counts: two more choices do not fit, though one would.
    answer = httpx.post(f"{server.url}/v1/completions", json={**BODY, "n": 2, "stream": stream})
    assert answer.status_code == 429
    assert answer.json()["error"]["type"] == "rate_limit_error"
    assert 1 <= int(answer.headers["retry-after"]) <= 60
    server.engine.hold_at = None
    assert [a.status_code for a in held.join()] == [200]
    assert httpx.post(f"{server.url}/v1/completions", json={**BODY, "n": 3}).status_code == 200
    assert (
        'admission_rejections_total{engine="0",model_name="tiny",reason="queue_full"} 1.0'
        in httpx.get(f"{server.url}/metrics").text
    )


def test_more_choices_than_can_fit(start: Callable[..., RunningServer]) -> None:
    server = start(engine=FakeEngine(max_num_seqs=2), max_queued_requests=1)
    answer = httpx.post(f"{server.url}/v1/completions", json={**BODY, "n": 4})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "n"


def test_queued_tokens(start: Callable[..., RunningServer]) -> None:
    server = start(max_queued_tokens=100)
    server.engine.hold_at = 0
    held = Background(server, {"prompt": "a" * 90})
    wait_until(lambda: server.gateway.admission.waiting_tokens == 90)
    assert httpx.post(f"{server.url}/v1/completions", json={"prompt": "a" * 20}).status_code == 429
    assert server.gateway.admission.live == 1
    server.engine.hold_at = None
    held.join()
    assert server.gateway.admission.waiting_tokens == 0
    # A single prompt beyond the bound is admitted when nothing waits; otherwise it could never run.
    assert httpx.post(f"{server.url}/v1/completions", json={"prompt": "a" * 120}).status_code == 200


def test_official_client_retries(start: Callable[..., RunningServer]) -> None:
    server = start(engine=FakeEngine(max_num_seqs=1), max_queued_requests=0)
    server.engine.hold_at = 0
    held = Background(server, BODY)
    wait_until(lambda: server.gateway.admission.live == 1)
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0) as client:
        with pytest.raises(openai.RateLimitError):
            client.completions.create(model="tiny", prompt="a")
        server.call(lambda: threading.Timer(0.2, lambda: setattr(server.engine, "hold_at", None)).start())
        again = client.with_options(max_retries=5)
        assert again.completions.create(model="tiny", prompt="a").choices[0].text == "Hello world"
    held.join()


def test_not_ready(clean: RunningServer, http: httpx.Client) -> None:
    clean.engine.hello = None
    answer = http.post("/v1/completions", json=BODY)
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "not_ready"
    assert "retry-after" in answer.headers
    for path in ("/health", "/ready"):
        assert http.get(path).status_code == 503


def test_health_follows_the_engine(clean: RunningServer, http: httpx.Client) -> None:
    assert http.get("/health").json() == {"status": "ok"}
    clean.engine.heard = time.monotonic() - 6
    answer = http.get("/health")
    assert answer.status_code == 503
    assert "silent" in answer.json()["reason"]
    clean.engine.heard = None
    clean.engine.stats.seconds_since_progress = 301.0
    answer = http.get("/health")
    assert answer.status_code == 503
    assert "progress" in answer.json()["reason"]


def test_retry_after_estimate() -> None:
    now = 100.0
    engine = FakeEngine(max_num_seqs=1)
    admission = Admission(GatewayConfig(max_queued_requests=20), engine, clock=lambda: now)
    tickets = [admission.admit(1) for _ in range(21)]

    def refused() -> int:
        with pytest.raises(ApiError) as caught:
            admission.admit(1)
        assert caught.value.status == 429
        assert caught.value.retry_after is not None
        return caught.value.retry_after

    assert refused() == 1, "nothing is known yet"
    for ticket in tickets[:10]:
        ticket.finished()
        now += 1.0
        tickets.append(admission.admit(1))
    assert refused() == 20, "one a second, 20 wait"
    for ticket in tickets[10:]:
        ticket.release()
        ticket.release()
    assert admission.live == 0
    asyncio.run(asyncio.wait_for(admission.empty(), 1))

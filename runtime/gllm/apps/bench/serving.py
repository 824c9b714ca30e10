"""Measure an OpenAI server: send the requests of a workload on time and record what happens to each."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

import httpx
import msgspec

from gllm.apps.bench.client import Endpoint, request_bytes, send_request
from gllm.apps.bench.driver import drive
from gllm.apps.bench.payload import DEFAULT_STYLE, Style
from gllm.apps.bench.record import RequestRecord
from gllm.apps.bench.requests import BenchRequest


class ServedModel(msgspec.Struct, frozen=True):
    """An entry of /v1/models; None for a field that the server does not send."""

    name: str
    max_model_len: int | None = None
    vocab_size: int | None = None


async def find_model(endpoint: Endpoint, name: str = "") -> ServedModel:
    """Return the server's first model, or the model called `name`.

    Raises ValueError if the server does not answer or has no such model.
    """
    scheme = "https" if endpoint.tls else "http"
    url = f"{scheme}://{endpoint.host}:{endpoint.port}{endpoint.prefix}/v1/models"
    headers = {"Authorization": f"Bearer {endpoint.api_key}"} if endpoint.api_key else {}
    try:
        async with httpx.AsyncClient(timeout=30.0) as client:
            answer = await client.get(url, headers=headers)
    except httpx.HTTPError as error:
        raise ValueError(f"no server at {url} ({error or type(error).__name__})") from error
    if answer.status_code == 401:
        raise ValueError("the server needs an API key: add --api-key")
    if answer.status_code != 200:
        raise ValueError(f"{url} answered {answer.status_code}: {answer.text[:200]}")
    models = answer.json().get("data", [])
    for model in models:
        if not name or model["id"] == name:
            return ServedModel(model["id"], model.get("max_model_len"), model.get("vocab_size"))
    known = ", ".join(model["id"] for model in models) or "none"
    raise ValueError(f"the server has no model {name!r}; it has: {known}")


async def run_requests(
    endpoint: Endpoint,
    requests: Sequence[BenchRequest],
    *,
    style: Style = DEFAULT_STYLE,
    max_concurrency: int | None = None,
    max_duration: float = math.inf,
    timeout: float = 3600.0,
    on_done: Callable[[RequestRecord], None] = lambda record: None,
) -> tuple[list[RequestRecord], float]:
    """Send every request at its arrival time (see `drive`). Return their records in order, and the seconds of the run.

    Times of a request that waits for `max_concurrency` count from when it is sent.
    """
    payloads = {request.index: request_bytes(endpoint, request, style) for request in requests}
    run_start = time.perf_counter()

    async def send(request: BenchRequest) -> RequestRecord:
        return await send_request(endpoint, request, payloads[request.index], run_start=run_start, timeout=timeout)

    records = await drive(
        requests, send, run_start=run_start, max_concurrency=max_concurrency, max_duration=max_duration, on_done=on_done
    )
    ends = [record.start + record.latency for record in records if record.ok]
    first = min((record.start for record in records), default=0.0)
    return records, max(ends, default=math.nan) - first if ends else time.perf_counter() - run_start

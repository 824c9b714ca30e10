"""Measure an OpenAI server: send the requests of a workload on time and record what happens to each."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence

import httpx
import msgspec

from gllm.apps.bench.client import Endpoint, request_bytes, send_completion
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
    """Send every request at its arrival time. Return their records in order, and the seconds of the run.

    Args:
        max_concurrency: more requests wait in the client; their times count from when they are sent. A conversation
            counts as one from its first request to the end of its last one.
        max_duration: no request is sent later than these seconds; unsent requests have no record.
        on_done: called as each request ends.
    """
    payloads = [request_bytes(endpoint, request, style) for request in requests]
    gate = asyncio.Semaphore(max_concurrency or max(len(requests), 1))
    run_start = time.perf_counter()

    async def chain(links: list[tuple[BenchRequest, bytes]]) -> list[RequestRecord]:
        """Send requests one after another; what follows a failed one is not sent."""
        delay = min(links[0][0].arrival, max_duration) - (time.perf_counter() - run_start)
        if delay > 0:
            await asyncio.sleep(delay)
        records: list[RequestRecord] = []
        async with gate:
            for request, payload in links:
                if time.perf_counter() - run_start >= max_duration or (records and not records[-1].ok):
                    break
                record = await send_completion(endpoint, request, payload, run_start=run_start, timeout=timeout)
                records.append(record)
                on_done(record)
        return records

    chains = _chains(list(zip(requests, payloads, strict=True)))
    parts = await asyncio.gather(*(chain(links) for links in chains))
    records = sorted((record for part in parts for record in part), key=lambda record: record.index)
    ends = [record.start + record.latency for record in records if record.ok]
    first = min((record.start for record in records), default=0.0)
    return records, max(ends, default=math.nan) - first if ends else time.perf_counter() - run_start


def _chains(links: list[tuple[BenchRequest, bytes]]) -> list[list[tuple[BenchRequest, bytes]]]:
    """Return the requests of each conversation together; others alone."""
    chains: dict[tuple[bool, int], list[tuple[BenchRequest, bytes]]] = {}
    for request, payload in links:
        alone = request.conversation is None
        key = (alone, request.index if request.conversation is None else request.conversation)
        chains.setdefault(key, []).append((request, payload))
    return list(chains.values())

"""Asks masters over HTTP for their number of requests and loading progress, and gateways for how long they have had
no requests. No answer means unknown, never zero."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import aiohttp

Addresses = Mapping[str, tuple[str, int]]
"""(host, port) of a group's master, by the group's name."""

_T = TypeVar("_T", int, float)
_TIMEOUT = aiohttp.ClientTimeout(total=1.5)
_SERIES = re.compile(r"^gllm:num_requests_(?:running|waiting)(?:\{[^}]*\})? ([0-9.e+]+)$", re.MULTILINE)


@dataclass(frozen=True)
class Answers:
    """Answers by the groups' names. Groups whose master did not answer are missing."""

    in_flight: Mapping[str, int] = field(default_factory=dict)
    """Requests that run or wait. A master with an API key refuses /metrics, so it does not answer."""
    loaded: Mapping[str, float] = field(default_factory=dict)
    """Loaded share of the weights, 0 to 1."""


NO_ANSWERS = Answers()


async def ask_masters(requests: Addresses, loading: Addresses) -> Answers:
    """Ask the masters in `requests` for their number of requests, and those in `loading` for their progress."""
    if not requests and not loading:
        return NO_ANSWERS
    async with aiohttp.ClientSession(timeout=_TIMEOUT) as session:
        counts, shares = await asyncio.gather(
            _ask_all(session, requests, "/metrics", parse_requests),
            _ask_all(session, loading, "/ready", parse_loaded),
        )
    return Answers(counts, shares)


async def ask_gateways(addresses: Addresses, model: str) -> tuple[float | None, ...]:
    """Return how long each gateway has had no requests for a model, in seconds; None: it did not answer."""
    if not addresses:
        return ()
    async with aiohttp.ClientSession(timeout=_TIMEOUT) as session:
        found = await _ask_all(session, addresses, "/ready", lambda text: parse_idle(text, model))
    return tuple(found.get(name) for name in addresses)


async def _ask_all(
    session: aiohttp.ClientSession, addresses: Addresses, path: str, parse: Callable[[str], _T | None]
) -> dict[str, _T]:
    texts = await asyncio.gather(*(_get(session, *address, path) for address in addresses.values()))
    found = {name: parse(text) for name, text in zip(addresses, texts, strict=True) if text is not None}
    return {name: value for name, value in found.items() if value is not None}


async def _get(session: aiohttp.ClientSession, host: str, port: int, path: str) -> str | None:
    address = f"[{host}]" if ":" in host else host
    try:
        async with session.get(f"http://{address}:{port}{path}") as response:
            return await response.text() if response.status in (200, 503) else None
    except (aiohttp.ClientError, TimeoutError, OSError):
        return None


def parse_requests(text: str) -> int | None:
    """The number of requests in the Prometheus text of /metrics; None if it has none."""
    found = _SERIES.findall(text)
    return int(sum(map(float, found))) if found else None


def parse_loaded(text: str) -> float | None:
    """The loaded share in the JSON of /ready; None if the group does not load."""
    try:
        return min(1.0, max(0.0, float(json.loads(text)["loaded"])))
    except (ValueError, TypeError, KeyError):
        return None


def parse_idle(text: str, model: str) -> float | None:
    """The seconds without requests for a model in the JSON of a gateway's /ready. An older gateway has one model."""
    try:
        found = json.loads(text)
        return float(found["models"][model]["idle_seconds"] if "models" in found else found["idle_seconds"])
    except (ValueError, TypeError, KeyError):
        return None

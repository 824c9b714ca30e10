"""What only a group's master knows, asked over HTTP. No answer means that it is not known, never zero."""

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
    """By the groups' names; those that did not answer are missing."""

    in_flight: Mapping[str, int] = field(default_factory=dict)
    """Requests that run or wait. (With an API key /metrics is not for us.)"""
    loaded: Mapping[str, float] = field(default_factory=dict)
    """Share of the weights that is loaded, 0 to 1, of groups that load."""


NO_ANSWERS = Answers()


async def ask_masters(requests: Addresses, loading: Addresses) -> Answers:
    """Ask some groups how many requests they have, and some how far they are with their weights."""
    if not requests and not loading:
        return NO_ANSWERS
    async with aiohttp.ClientSession(timeout=_TIMEOUT) as session:
        counts, shares = await asyncio.gather(
            _ask_all(session, requests, "/metrics", parse_requests),
            _ask_all(session, loading, "/ready", parse_loaded),
        )
    return Answers(counts, shares)


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
    """From the Prometheus text of /metrics."""
    found = _SERIES.findall(text)
    return int(sum(map(float, found))) if found else None


def parse_loaded(text: str) -> float | None:
    """From the JSON of /ready, which has it while the group loads."""
    try:
        answer = json.loads(text)
        share = float(answer["loaded"])
    except (ValueError, TypeError, KeyError):
        return None
    return min(1.0, max(0.0, share))

"""How many requests a group still has: asked of its master. No answer means that it is not known, never zero."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping

import aiohttp

_TIMEOUT = aiohttp.ClientTimeout(total=1.5)
_SERIES = re.compile(r"^gllm:num_requests_(?:running|waiting)(?:\{[^}]*\})? ([0-9.e+]+)$", re.MULTILINE)


async def count_requests(masters: Mapping[str, tuple[str, int]]) -> dict[str, int]:
    """Of each group, by name, of which the master's address is given. (With an API key /metrics is not for us.)"""
    if not masters:
        return {}
    async with aiohttp.ClientSession(timeout=_TIMEOUT) as session:
        answers = await asyncio.gather(*(_count(session, *address) for address in masters.values()))
    return {name: count for name, count in zip(masters, answers, strict=True) if count is not None}


async def _count(session: aiohttp.ClientSession, host: str, port: int) -> int | None:
    address = f"[{host}]" if ":" in host else host
    try:
        async with session.get(f"http://{address}:{port}/metrics") as response:
            if response.status != 200:
                return None
            return parse_requests(await response.text())
    except (aiohttp.ClientError, TimeoutError, OSError):
        return None


def parse_requests(text: str) -> int | None:
    found = _SERIES.findall(text)
    return int(sum(map(float, found))) if found else None

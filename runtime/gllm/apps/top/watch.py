"""Asks servers for /metrics again and again, and keeps the samples of the last seconds."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from typing import Self

import httpx

from gllm.apps.server_url import server_base
from gllm.apps.top.figures import ServerFigures, figures_of
from gllm.apps.top.samples import Between, Sample, read_sample

WINDOW_SECONDS = 15.0
"""Rates and quantiles are those of this time."""
_TIMEOUT_SECONDS = 5.0


class Watch:
    """Any number of servers. A context manager of asyncio.

    Raises ValueError for a URL that is none.
    """

    def __init__(self, urls: Sequence[str], api_key: str = "") -> None:
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._client = httpx.AsyncClient(timeout=_TIMEOUT_SECONDS, headers=headers)
        self._samples: dict[str, deque[Sample]] = {server_base(url, "URL"): deque() for url in urls}

    async def figures(self) -> list[ServerFigures]:
        """Ask all servers, and return their figures since the oldest sample of the window."""
        return list(await asyncio.gather(*map(self._ask, self._samples)))

    async def _ask(self, url: str) -> ServerFigures:
        samples = self._samples[url]
        try:
            answer = await self._client.get(f"{url}/metrics")
            if answer.status_code == 401:
                raise ValueError("it needs an API key: add --api-key")
            if answer.status_code != 200:
                raise ValueError(f"/metrics answered {answer.status_code}")
            samples.append(read_sample(answer.text, time.monotonic()))
        except (httpx.HTTPError, ValueError) as error:
            samples.clear()  # It may come back as another process, whose counters begin at zero.
            return ServerFigures(url=url, problem=str(error) or type(error).__name__)
        while len(samples) > 2 and samples[1].time <= samples[-1].time - WINDOW_SECONDS:
            samples.popleft()
        return figures_of(url, Between(samples[0], samples[-1]))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._client.aclose()

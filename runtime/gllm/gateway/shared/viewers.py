"""Viewers of the pipeline: each gets the events of the engine, which makes them only while there are viewers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any

from gllm.engine.client.client import EngineClient
from gllm.engine.client.engines import RemoteEngines
from gllm.gateway.protocol.errors import ApiError
from gllm.ui.frames import events_frame, frame
from gllm.wire.messages import EngineStats, Hello
from gllm.wire.pipeline_events import PipelineEvents

MAX_VIEWERS = 16
MAX_FRAMES = 64
"""Frames that wait for a slow viewer; beyond that it loses all of them and gets `lost`."""
_LEASE = 3.0
"""Seconds for which the engine is asked for events; it is asked again each second."""
_TICK = 1.0


class _Viewer:
    """The frames that wait for one viewer."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[bytes] = asyncio.Queue(MAX_FRAMES)
        self.lost = 0
        """Frames that it was too slow for, since it was last told."""

    def put(self, encoded: bytes) -> None:
        if self.queue.full():
            while not self.queue.empty():
                self.queue.get_nowait()
                self.lost += 1
        self.queue.put_nowait(encoded)


class Viewers:
    """The engine's events, encoded once for all viewers."""

    def __init__(self, engine: EngineClient | RemoteEngines, settings: dict[str, Any]) -> None:
        """settings: what the first event says of the server."""
        self._engine = engine
        self._settings = settings
        self._viewers: set[_Viewer] = set()
        self._asking: asyncio.Task[None] | None = None
        self._engines: dict[str, Hello] = {}
        engine.on_events = self._take

    def check_room(self) -> None:
        """Raise ApiError 429 if there are too many viewers."""
        if len(self._viewers) >= MAX_VIEWERS:
            raise ApiError(
                429,
                f"{MAX_VIEWERS} viewers watch the pipeline already: close one of them.",
                kind="rate_limit_error",
                code="too_many_viewers",
                retry_after=5,
            )

    async def frames(self, problem: Callable[[], str | None], draining: Callable[[], bool]) -> AsyncGenerator[bytes]:
        """Yield events until the server drains. problem: why the engine does not serve now."""
        viewer = _Viewer()
        self._viewers.add(viewer)
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask())
        try:
            yield frame("hello", self._settings)
            shown: object = None
            while not draining():
                state = (problem(), tuple(self._engines.items()))
                if state != shown:
                    shown = state
                    yield self._state(state[0])
                try:
                    encoded = await asyncio.wait_for(viewer.queue.get(), _TICK)
                except TimeoutError:
                    encoded = b": still here\n\n"
                if viewer.lost:
                    lost, viewer.lost = viewer.lost, 0
                    yield frame("lost", {"frames": lost})
                yield encoded
        finally:
            self._viewers.discard(viewer)
            if not self._viewers and self._asking is not None:
                self._asking.cancel()
                self._asking = None

    def _state(self, problem: str | None) -> bytes:
        engines = [
            {"engine": name, "epoch": hello.epoch, "num_pages": hello.num_pages, "page_size": hello.page_size}
            for name, hello in self._engines.items()
        ]
        return frame("state", {"ready": problem is None, "reason": problem, "engines": engines})

    async def _ask(self) -> None:
        while True:
            self._engines = self._engine.watch(_LEASE)
            await asyncio.sleep(_TICK)

    def _take(self, name: str, events: PipelineEvents, stats: EngineStats) -> None:
        if not self._viewers:
            return
        encoded = events_frame(name, events, stats)
        for viewer in self._viewers:
            viewer.put(encoded)

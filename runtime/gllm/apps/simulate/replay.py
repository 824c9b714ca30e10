"""Plays simulated runs in the web page, at their own speed: the events of a server, from a recording."""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from gllm.engine.feed import PipelineFeed
from gllm.ui.frames import events_frame, frame
from gllm.ui.page import Page
from gllm.wire.messages import EngineStats


@dataclass
class Recorder:
    """Records one run as a viewer would see it. `name` is shown in place of an engine's address."""

    name: str
    pp: int
    kv_tokens: int
    page_size: int
    frames: list[tuple[float, bytes]] = field(default_factory=list)
    """(simulated seconds, event), in order of time."""

    def start(self, clock: Callable[[], float]) -> PipelineFeed:
        """Return the feed that the simulation reports to. clock: simulated seconds."""
        self._feed = PipelineFeed(self.pp, clock=clock, wall=clock)
        self._feed.watch(True)
        return self._feed

    def tick(self, stats: Callable[[], EngineStats], *, last: bool = False) -> None:
        """Record a message if one is due, or if it is the last one."""
        events = self._feed.take(at_once=last)
        if events is not None:
            self.frames.append((events.time, events_frame(self.name, events, stats())))


@dataclass(frozen=True)
class Replay:
    """What the page shows of a set of runs; they play beside each other, and the page chooses one."""

    about: str
    runs: Sequence[Recorder]

    async def events(self) -> AsyncGenerator[bytes]:
        """Yield the events of all runs, each when its time has come."""
        engines = [
            {"engine": run.name, "epoch": 0, "num_pages": run.kv_tokens // run.page_size, "page_size": run.page_size}
            for run in self.runs
        ]
        pp = self.runs[0].pp
        yield frame("hello", {"model": self.about, "pp": pp, "policy": "", "simulated": True})
        yield frame("state", {"ready": True, "reason": None, "engines": engines})
        merged = heapq.merge(*(run.frames for run in self.runs))
        began = time.monotonic()
        for due, event in merged:
            await asyncio.sleep(max(0.0, began + due - time.monotonic()))
            yield event
        yield frame("end", {})


def replay_app(replay: Replay) -> ASGIApp:
    """Return a server of the page with the routes that its pipeline view needs."""

    async def ready(_: Request) -> Response:
        return JSONResponse({"status": "ok", "simulated": True})

    async def models(_: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": replay.about, "object": "model"}]})

    async def events(_: Request) -> Response:
        headers = {"Cache-Control": "no-cache"}
        return StreamingResponse(replay.events(), media_type="text/event-stream", headers=headers)

    routes = [Route("/ready", ready), Route("/v1/models", models), Route("/pipeline/events", events)]
    return Page(Starlette(routes=routes))


def serve_replay(replay: Replay, port: int) -> None:
    """Serve until Ctrl-C. Raises ValueError if the port is taken."""
    config = uvicorn.Config(
        replay_app(replay), host="127.0.0.1", port=port, log_level="error", lifespan="off", timeout_graceful_shutdown=1
    )
    try:
        listener = config.bind_socket()
    except SystemExit:
        raise ValueError(f"cannot listen on 127.0.0.1:{port}: choose another --ui-port") from None
    host, port = listener.getsockname()[:2]
    print(f"The simulated run plays at http://{host}:{port}/#pipeline - Ctrl-C ends it", flush=True)
    uvicorn.Server(config).run(sockets=[listener])

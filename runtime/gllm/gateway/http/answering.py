"""The HTTP response of a generation, from the request's body to the last byte or the client's disconnect."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gllm.gateway.request.answer import Answer

T = TypeVar("T")

EVENT_STREAM = "gllm.event_stream"
"""Set in the scope's state while the answer is a stream of events."""


class ClientGoneError(Exception):
    """The client closed its connection: no response can reach it."""


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Return the work's result. When the client disconnects first, cancel the work and raise ClientGoneError."""
    task = asyncio.create_task(work)
    disconnect = asyncio.create_task(_wait_for_disconnect(receive))
    try:
        await asyncio.wait((task, disconnect), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
    finally:
        disconnect.cancel()
        if not task.done():
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
    raise ClientGoneError


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStreamResponse(Response):
    """Sends server-sent events while the client is connected, and then closes the generator that makes them."""

    media_type = "text/event-stream"

    def __init__(self, frames: AsyncGenerator[bytes]) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._frames = frames

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with contextlib.suppress(ClientGoneError):
            await while_connected(receive, self.send_all(scope, send))

    async def send_all(self, scope: Scope, send: Send) -> None:
        scope.setdefault("state", {})[EVENT_STREAM] = True
        async with aclosing(self._frames) as frames:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async for frame in frames:
                await send({"type": "http.response.body", "body": frame, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})


class AnswerResponse(Response):
    """Opens an answer, sends it and closes it, all while the client is connected.

    Errors before the first token are raised before the headers leave, so the exception handlers answer them.
    """

    def __init__(self, open_answer: Callable[[], Coroutine[Any, Any, Answer]], *, stream: bool) -> None:
        self._open_answer = open_answer
        self._stream = stream
        self.status_code = 200
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with contextlib.suppress(ClientGoneError):
            await while_connected(receive, self._serve(scope, receive, send))

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = await self._open_answer()
        try:
            if self._stream:
                await EventStreamResponse(answer.frames()).send_all(scope, send)
                return
            body = await answer.whole()
        finally:
            # Aborts the choices that still run in the engine.
            await answer.close()
        await Response(body, media_type="application/json")(scope, receive, send)

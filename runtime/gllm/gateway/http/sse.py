"""Server-sent events on bare ASGI, and what happens when the client goes away."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from typing import Any, Protocol, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

T = TypeVar("T")

DONE = b"data: [DONE]\n\n"
EVENT_STREAM = "gllm.event_stream"
"""Set in the scope's state while the answer is a stream of events."""


class ClientGoneError(Exception):
    """The client closed its connection; nobody reads what we would send."""


class Disconnect:
    """Listens for `http.disconnect` beside the work of one request, from the body's end to the last byte."""

    def __init__(self, receive: Receive) -> None:
        self._task = asyncio.create_task(self._listen(receive))

    @staticmethod
    async def _listen(receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The work's result; if the client leaves first the work is cancelled and ClientGoneError raised."""
        task = asyncio.ensure_future(work)
        try:
            await asyncio.wait((task, self._task), return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
        finally:
            if not task.done():
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        raise ClientGoneError

    def close(self) -> None:
        self._task.cancel()


class EventStream(Response):
    """A 200 whose body is frames of bytes; headers leave with the first frame, which is already known.

    `close` is awaited whatever happens: it aborts what still runs in the engine.
    """

    def __init__(
        self,
        frames: AsyncGenerator[bytes, None],
        close: Callable[[], Coroutine[Any, Any, None]],
        disconnect: Disconnect,
    ) -> None:
        self._frames = frames
        self._close = close
        self._disconnect = disconnect
        self.status_code = 200
        self.background = None
        self.media_type = "text/event-stream"
        self.init_headers({"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope.setdefault("state", {})[EVENT_STREAM] = True
        try:
            await self._disconnect.run(self._pump(send))
        except ClientGoneError:
            pass
        finally:
            self._disconnect.close()
            await self._frames.aclose()
            await self._close()

    async def _pump(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for frame in self._frames:
            await send({"type": "http.response.body", "body": frame, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class Answer(Protocol):
    """One request's answer, as a stream or in one piece."""

    def frames(self) -> AsyncGenerator[bytes, None]: ...
    async def whole(self) -> bytes: ...


async def respond(
    answer: Answer, close: Callable[[], Coroutine[Any, Any, None]], disconnect: Disconnect, *, stream: bool
) -> Response:
    """The response to a request that has begun; `close` ends its work, whatever happens."""
    if stream:
        return EventStream(answer.frames(), close, disconnect)
    try:
        body = await disconnect.run(answer.whole())
    finally:
        await close()
    return Response(body, media_type="application/json")


async def while_connected(receive: Receive, serve: Callable[[Disconnect], Awaitable[Response]]) -> Response:
    """What `serve` answers, to a client that is listened to until the response is complete."""
    disconnect = Disconnect(receive)
    response: Response | None = None
    try:
        response = await serve(disconnect)
        return response
    finally:
        # A stream closes it itself, after its last byte.
        if not isinstance(response, EventStream):
            disconnect.close()

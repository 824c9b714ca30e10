"""An API's answer to one request, as HTTP sends it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator

from gllm.gateway.request.generation import Generation


class Answer(ABC):
    """The answer of an open generation. Use `frames` or `whole`, once, then `close`."""

    def __init__(self, generation: Generation) -> None:
        self._generation = generation

    @abstractmethod
    def frames(self) -> AsyncGenerator[bytes, None]:
        """Yield server-sent events. An error becomes the last event, because the response has begun."""

    @abstractmethod
    async def whole(self) -> bytes:
        """Return the JSON body. Raises ApiError."""

    async def close(self) -> None:
        """Abort the choices that still run. Safe to call twice."""
        await self._generation.close()

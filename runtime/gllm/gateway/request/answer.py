"""An API's answer to one request, as HTTP sends it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator

from gllm.gateway.request.generation import Generation


class Answer(ABC):
    """The answer of an open generation: read `frames` or `whole`, once, then `close`."""

    def __init__(self, generation: Generation) -> None:
        self._generation = generation

    @abstractmethod
    def frames(self) -> AsyncGenerator[bytes, None]:
        """Server-sent events. An error becomes the last one, as the response has begun."""

    @abstractmethod
    async def whole(self) -> bytes:
        """The JSON body. Raises ApiError."""

    async def close(self) -> None:
        """End the engine's work on what is not finished. Safe to call twice."""
        await self._generation.close()

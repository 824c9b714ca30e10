"""Keeps the cache current: for each kind one list, then a watch of the objects with the operator's label."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence

from gllm_operator.kube.api import Api, ApiError
from gllm_operator.kube.cache import Cache
from gllm_operator.names import MANAGED_BY, MANAGER
from gllm_operator.objects import version_number

_log = logging.getLogger(__name__)
SELECTOR = f"{MANAGED_BY}={MANAGER}"
_LONGEST_DELAY = 30.0


class Informer:
    """Watches one kind. `run` until cancelled; `synced` is set when all was listed once."""

    def __init__(self, api: Api, cache: Cache, api_version: str, kind: str, namespaces: Sequence[str]) -> None:
        self._api = api
        self._cache = cache
        self.api_version = api_version
        self.kind = kind
        self._namespaces = namespaces
        """Empty: all."""
        self.synced = asyncio.Event()
        """Set when every namespace was listed."""
        self.last_contact = time.monotonic()
        """When the API server last answered or sent an event."""

    async def run(self) -> None:
        scopes: list[str | None] = [*self._namespaces] or [None]
        unlisted = set(scopes)
        await asyncio.gather(*(self._follow(scope, unlisted) for scope in scopes))

    async def _follow(self, namespace: str | None, unlisted: set[str | None]) -> None:
        delay = 0.5
        while True:
            try:
                items, version = await self._api.list(self.api_version, self.kind, namespace, SELECTOR)
                self._cache.replace(self.api_version, self.kind, namespace, items, version_number(version))
                unlisted.discard(namespace)
                if not unlisted:
                    self.synced.set()
                self.last_contact = time.monotonic()
                delay = 0.5
                await self._watch(namespace, version)
            except ApiError as error:
                if error.status != 410:
                    _log.warning("cannot watch", extra={"kind": self.kind, "error": str(error), "retry_in": delay})
                    await asyncio.sleep(delay)
                    delay = min(delay * 2, _LONGEST_DELAY)

    async def _watch(self, namespace: str | None, version: str) -> None:
        """Open one watch after another until one fails."""
        while True:
            async for type, found in self._api.watch(self.api_version, self.kind, namespace, SELECTOR, version):
                self.last_contact = time.monotonic()
                version = found["metadata"]["resourceVersion"]
                if type == "BOOKMARK":
                    continue
                found = {"apiVersion": self.api_version, "kind": self.kind, **found}
                if type == "DELETED":
                    self._cache.remove(found)
                else:
                    self._cache.put(found)

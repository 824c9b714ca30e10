"""The API server over HTTP."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import aiohttp

from gllm_operator.kube.api import ApiError, path_of
from gllm_operator.kube.login import Login
from gllm_operator.names import MANAGER
from gllm_operator.objects import Object

_TIMEOUT = aiohttp.ClientTimeout(total=30, connect=10)
_WATCH_SECONDS = 240
_WATCH_TIMEOUT = aiohttp.ClientTimeout(total=None, connect=10, sock_read=_WATCH_SECONDS + 30)
_LONGEST_LINE = 16 * 2**20


@dataclass
class ApiClient:
    """A connection pool: `async with ApiClient(login) as client`."""

    login: Login
    on_write: Callable[[str, str], None] = lambda verb, kind: None
    """Called with the verb and the kind of every write."""

    async def __aenter__(self) -> ApiClient:
        ssl = self.login.connection.as_ssl_context() if self.login.server.startswith("https") else True
        # Without a limit: each watch holds a connection, and there is one for each kind and namespace.
        self._connector = aiohttp.TCPConnector(ssl=ssl, limit=0)
        self._session = self.new_session()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()
        await self._connector.close()

    def new_session(self) -> aiohttp.ClientSession:
        """A session over the same connections and credentials. Its user closes it."""
        return aiohttp.ClientSession(
            connector=self._connector,
            connector_owner=False,
            middlewares=(self._authorize,),
            proxy=self.login.connection.proxy_url,
            read_bufsize=2**20,
        )

    async def _authorize(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        request.headers.update(self.login.headers())
        return await handler(request)

    async def get(self, api_version: str, kind: str, namespace: str, name: str) -> Object:
        return await self._call("GET", path_of(api_version, kind, namespace, name))

    async def list(
        self, api_version: str, kind: str, namespace: str | None, selector: str = "", fields: str = ""
    ) -> tuple[list[Object], str]:
        query = _selectors(selector, fields)
        answer = await self._call("GET", path_of(api_version, kind, namespace), query=query)
        items = [{"apiVersion": api_version, "kind": kind, **item} for item in answer.get("items") or []]
        return items, answer["metadata"]["resourceVersion"]

    async def watch(
        self, api_version: str, kind: str, namespace: str | None, selector: str, version: str, fields: str = ""
    ) -> AsyncIterator[tuple[str, Object]]:
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(_WATCH_SECONDS),
            **_selectors(selector, fields),
        }
        try:
            async with self._session.get(
                self.login.server + path_of(api_version, kind, namespace),
                params=query,
                timeout=_WATCH_TIMEOUT,
            ) as response:
                if response.status >= 400:
                    raise _error(response.status, await response.text())
                async for line in _lines(response.content):
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        raise _error(int(event["object"].get("code", 500)), json.dumps(event["object"]))
                    yield event["type"], event["object"]
        except (aiohttp.ClientError, TimeoutError) as error:
            raise ApiError(0, "Unreachable", f"{type(error).__name__}: {error}") from error

    async def create(self, manifest: Object) -> Object:
        self.on_write("create", manifest["kind"])
        path = path_of(manifest["apiVersion"], manifest["kind"], manifest["metadata"]["namespace"])
        return await self._call("POST", path, manifest, query={"fieldManager": MANAGER})

    async def apply(self, manifest: Object, *, dry_run: bool = False) -> Object:
        if not dry_run:
            self.on_write("apply", manifest["kind"])
        metadata = manifest["metadata"]
        path = path_of(manifest["apiVersion"], manifest["kind"], metadata["namespace"], metadata["name"])
        query = {"fieldManager": MANAGER, "force": "true", "fieldValidation": "Strict"}
        if dry_run:
            query["dryRun"] = "All"
        return await self._call("PATCH", path, manifest, "application/apply-patch+yaml", query)

    async def patch(
        self, api_version: str, kind: str, namespace: str, name: str, body: Object, subresource: str = ""
    ) -> Object:
        self.on_write("patch", kind)
        path = path_of(api_version, kind, namespace, name, subresource)
        return await self._call("PATCH", path, body, "application/merge-patch+json", {"fieldManager": MANAGER})

    async def delete(
        self, api_version: str, kind: str, namespace: str, name: str, uid: str, *, force: bool = False
    ) -> Object | None:
        self.on_write("delete", kind)
        body: Object = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": {"uid": uid},
            "propagationPolicy": "Foreground" if kind == "StatefulSet" else "Background",
        }
        if force:
            body["gracePeriodSeconds"] = 0
        try:
            answer = await self._call("DELETE", path_of(api_version, kind, namespace, name), body)
        except ApiError as error:
            if error.status == 404:
                return None
            raise
        # The answer may also be a Status, or the last state of an object that is gone.
        metadata = answer.get("metadata") or {}
        remains = "deletionTimestamp" in metadata and (
            metadata.get("finalizers") or metadata.get("deletionGracePeriodSeconds")
        )
        return answer if answer.get("kind") == kind and remains else None

    async def has_api(self, api_version: str) -> bool:
        try:
            await self._call("GET", f"/apis/{api_version}")
        except ApiError as error:
            if error.status in (404, 403):
                return False
            raise
        return True

    async def _call(
        self,
        method: str,
        path: str,
        body: Object | None = None,
        content_type: str = "application/json",
        query: dict[str, str] | None = None,
    ) -> Object:
        headers = {"Accept": "application/json", "Content-Type": content_type}
        data = None if body is None else json.dumps(body)
        try:
            async with self._session.request(
                method, self.login.server + path, data=data, params=query, headers=headers, timeout=_TIMEOUT
            ) as response:
                text = await response.text()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise ApiError(0, "Unreachable", f"{type(error).__name__}: {error}") from error
        if response.status >= 400:
            raise _error(response.status, text)
        answer: Object = json.loads(text)
        return answer


def _selectors(labels: str, fields: str) -> dict[str, str]:
    return {name: text for name, text in (("labelSelector", labels), ("fieldSelector", fields)) if text}


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Yield whole lines. aiohttp's own iteration raises on lines that are longer than its buffer."""
    held = b""
    async for chunk in content.iter_any():
        held += chunk
        if len(held) > _LONGEST_LINE:
            raise ApiError(0, "TooLong", "a watch event is too long")
        *whole, held = held.split(b"\n")
        for line in whole:
            if line.strip():
                yield line


def _error(status: int, text: str) -> ApiError:
    try:
        body = json.loads(text)
        return ApiError(int(body.get("code") or status), body.get("reason") or "", body.get("message") or text[:500])
    except (ValueError, AttributeError):
        return ApiError(status, "", text[:500])

"""Reads and watches one LLMDeployment with the rights of the kubeconfig: `get`, and for --watch `list` and `watch`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from gllm.terminal import rich_table
from gllm_operator.api import GROUP, KIND, PLURAL, SHORT_NAME, VERSION
from gllm_operator.api.status import LLMDeploymentStatus, decode_status
from gllm_operator.kube.api import Api, ApiError
from gllm_operator.kube.client import ApiClient
from gllm_operator.kube.login import login
from gllm_operator.objects import Object
from gllm_operator.show import tables

_API = f"{GROUP}/{VERSION}"
_RETRY_SECONDS = 2.0


def show(target: str, namespace: str, watch: bool, out: TextIO) -> int:
    """Print llm/NAME once, or until it is deleted. Raises ValueError, in one line."""
    name = _name_of(target)
    found = login()
    place = namespace or found.connection.default_namespace or "default"

    async def work() -> None:
        async with ApiClient(found) as api:
            await (_watch(api, place, name, out) if watch else _once(api, place, name, out))

    try:
        asyncio.run(work())
    except ApiError as error:
        raise ValueError(f"llm/{name} in {place}: {error.message}") from None
    return 0


def _name_of(target: str) -> str:
    kind, slash, name = target.rpartition("/")
    if slash and kind.lower() not in (SHORT_NAME, PLURAL, KIND.lower()):
        raise ValueError(f"{target} is not an LLMDeployment: give llm/NAME")
    return name


async def _once(api: Api, namespace: str, name: str, out: TextIO) -> None:
    print(tables.plain(await api.get(_API, KIND, namespace, name)), file=out)


async def _watch(api: Api, namespace: str, name: str, out: TextIO) -> None:
    screen = _Screen(out)
    with screen:
        async for deployment in versions(api, namespace, name):
            if deployment is None:
                screen.print(f"llm/{name} is gone")
                return
            screen.show(deployment)


async def versions(api: Api, namespace: str, name: str) -> AsyncIterator[Object | None]:
    """Yield the deployment at each change, and None when it is deleted. Raises ApiError if it cannot be read at
    first; later the connection may break for a while."""
    fields, seen = f"metadata.name={name}", False
    while True:
        try:
            items, version = await api.list(_API, KIND, namespace, fields=fields)
            if not items:
                if seen:
                    yield None
                    return
                raise ApiError(404, "NotFound", "not found")
            seen = True
            yield items[0]
            async for type, found in api.watch(_API, KIND, namespace, "", version, fields):
                if type == "DELETED":
                    yield None
                    return
                if type != "BOOKMARK":
                    yield found
        except ApiError as error:
            if not seen or error.status in (401, 403):
                raise
            await asyncio.sleep(_RETRY_SECONDS)


class _Screen:
    """On a terminal two tables that change in place, elsewhere a line for each change."""

    def __init__(self, out: TextIO) -> None:
        self._console = Console(file=out, highlight=False, soft_wrap=True)
        self._live = Live(console=self._console, auto_refresh=False) if self._console.is_terminal else None
        self._before = LLMDeploymentStatus()

    def __enter__(self) -> None:
        if self._live is not None:
            self._live.start()

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, deployment: Object) -> None:
        status = decode_status(deployment.get("status"))
        if self._live is not None:
            self._live.update(_layout(deployment, status), refresh=True)
            return
        if self._before == LLMDeploymentStatus():
            self.print(tables.headline(deployment))
        for line in tables.changes(self._before, status):
            self.print(line)
        self._before = status

    def print(self, line: str) -> None:
        self._console.print(line, markup=False)
        self._console.file.flush()


def _layout(deployment: Object, status: LLMDeploymentStatus) -> Group:
    now = time.time()
    parts: list[str | Table] = [escape(tables.headline(deployment))]
    for columns, rows in (
        (tables.CONDITION_COLUMNS, tables.condition_rows(status, now)),
        (tables.GROUP_COLUMNS, tables.group_rows(status, now)),
    ):
        if rows:
            table = rich_table(columns, [tuple(map(escape, row)) for row in rows])
            table.expand = True
            for index, column in enumerate(table.columns[:-1]):
                column.no_wrap, column.min_width = True, max(len(row[index]) for row in rows)
            table.columns[-1].ratio = 1  # The last column, a sentence, wraps in the rest of the width.
            parts.append(table)
    return Group(*parts)

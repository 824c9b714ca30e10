"""Nodes that are about to go, by a watch of all nodes: cordoned ones, as by `kubectl drain`, and those with a taint by
which an autoscaler announces their removal."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping

from gllm_operator.kube.api import Api, ApiError
from gllm_operator.objects import Object

_log = logging.getLogger(__name__)
_LONGEST_DELAY = 60.0


class LeavingNodes:
    """`run` until cancelled; `asked` is set when the nodes were listed, or the operator lacks the right to."""

    def __init__(self, api: Api, taints: Collection[str], on_change: Callable[[], None] = lambda: None) -> None:
        self._api = api
        self._taints = taints
        self._on_change = on_change
        self.asked = asyncio.Event()
        self.found: Mapping[str, str] | None = None
        """Why each node is about to go, by its name; None: the operator may not watch nodes."""

    async def run(self) -> None:
        delay, refused = 1.0, False
        while True:
            try:
                nodes, version = await self._api.list("v1", "Node", None)
                self._take({node["metadata"]["name"]: why for node in nodes if (why := leaves(node, self._taints))})
                delay, refused = 1.0, False
                while True:
                    async for type, node in self._api.watch("v1", "Node", None, "", version):
                        version = node["metadata"]["resourceVersion"]
                        if type != "BOOKMARK":
                            self._put(node, gone=type == "DELETED")
            except ApiError as error:
                if error.status == 403:
                    if not refused:
                        _log.warning(
                            "may not watch nodes, so evictions do not wait for new groups: set watchNodes of the chart",
                            extra={"error": str(error)},
                        )
                    refused, delay = True, _LONGEST_DELAY
                    self._take(None)
                if error.status != 410:
                    await asyncio.sleep(delay)
                    delay = min(delay * 2, _LONGEST_DELAY)

    def _put(self, node: Object, *, gone: bool) -> None:
        name, why = node["metadata"]["name"], "" if gone else leaves(node, self._taints)
        others = {key: value for key, value in (self.found or {}).items() if key != name}
        self._take(others | ({name: why} if why else {}))

    def _take(self, found: Mapping[str, str] | None) -> None:
        changed, self.found = found != self.found, found
        self.asked.set()
        if changed:
            self._on_change()


def leaves(node: Object, taints: Collection[str]) -> str:
    """Why a node is about to go; empty if it is not."""
    spec = node.get("spec") or {}
    if spec.get("unschedulable"):
        return "cordoned"
    return next((f"taint {one['key']}" for one in spec.get("taints") or [] if one["key"] in taints), "")

"""Failures that only events tell: why a StatefulSet could not create its pods (a quota, a policy, a missing
ServiceAccount), and why a volume of a pod could not be mounted (a missing Secret or claim)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gllm_operator.kube.api import Api, ApiError
from gllm_operator.names import parse_set_name
from gllm_operator.objects import Object, ObjectKey, seconds_of

_log = logging.getLogger(__name__)

FIELDS = "involvedObject.kind=StatefulSet,reason=FailedCreate"
MOUNT_FIELDS = "involvedObject.kind=Pod,reason=FailedMount"
_LONGEST_DELAY = 60.0
_MOST_OBJECTS = 2000
"""Objects that are remembered; the oldest are forgotten first."""


@dataclass(frozen=True, slots=True)
class FailedCreate:
    time: float
    """When it last failed, in seconds since the epoch."""
    message: str


class FailedCreates:
    """Watches the events. `run` until cancelled; nothing waits for it, since an operator may lack the right."""

    def __init__(
        self, api: Api, on_change: Callable[[ObjectKey], None], namespaces: Sequence[str], fields: str = FIELDS
    ) -> None:
        self._api = api
        self._on_change = on_change
        self._fields = fields
        self._namespaces = namespaces
        """Empty: all."""
        self._found: dict[str, dict[str, FailedCreate]] = {}
        """By the uid of the object and the name of the event."""

    def of(self, uid: str) -> FailedCreate | None:
        """The last failure of the object with this uid."""
        return max(self._found.get(uid, {}).values(), key=lambda one: one.time, default=None)

    async def run(self) -> None:
        scopes: list[str | None] = [*self._namespaces] or [None]
        await asyncio.gather(*(self._follow(scope) for scope in scopes))

    async def _follow(self, namespace: str | None) -> None:
        delay = 1.0
        while True:
            try:
                items, version = await self._api.list("v1", "Event", namespace, fields=self._fields)
                for item in items:
                    self._put(item)
                delay = 1.0
                while True:
                    async for type, event in self._api.watch("v1", "Event", namespace, "", version, self._fields):
                        version = event["metadata"]["resourceVersion"]
                        if type == "DELETED":
                            self._remove(event)
                        elif type != "BOOKMARK":
                            self._put(event)
            except ApiError as error:
                if error.status != 410:
                    _log.warning("cannot watch events", extra={"error": str(error), "retry_in": delay})
                    await asyncio.sleep(delay)
                    delay = min(delay * 2, _LONGEST_DELAY)

    def _put(self, event: Object) -> None:
        deployment = _deployment_of(event)
        if deployment is None:
            return
        seconds = seconds_of(event.get("lastTimestamp") or event.get("eventTime") or event.get("firstTimestamp"))
        found = self._found.setdefault(event["involvedObject"].get("uid", ""), {})
        found[event["metadata"]["name"]] = FailedCreate(seconds or 0.0, event.get("message", ""))
        while len(self._found) > _MOST_OBJECTS:  # A watch that breaks misses the end of events.
            self._found.pop(next(iter(self._found)))
        self._on_change(deployment)

    def _remove(self, event: Object) -> None:
        uid = event["involvedObject"].get("uid", "")
        found = self._found.get(uid, {})
        found.pop(event["metadata"]["name"], None)
        if not found:
            self._found.pop(uid, None)


def _deployment_of(event: Object) -> ObjectKey | None:
    name = event["involvedObject"].get("name", "")
    if event["involvedObject"].get("kind") == "Pod":
        name = name.rpartition("-")[0]
    parsed = parse_set_name(name)
    return None if parsed is None else ObjectKey(event["involvedObject"]["namespace"], parsed[0])

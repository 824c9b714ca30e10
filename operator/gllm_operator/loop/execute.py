"""The only writer. Does what a plan says, in its order: what must be remembered first, then the deeds, then events."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from gllm_operator.api.status import LLMDeploymentStatus
from gllm_operator.clock import stamp
from gllm_operator.digest import digest
from gllm_operator.kube.api import Api, ApiError, Object
from gllm_operator.kube.cache import Cache
from gllm_operator.loop.observe import controller_of, key_of, owned_fields
from gllm_operator.names import FINALIZER, MANAGER, Owner
from gllm_operator.plan import Delete, Event, Plan
from gllm_operator.plan.observed import Applied, Key, Refusal
from gllm_operator.plan.types import Manifest

_log = logging.getLogger(__name__)


class Stale(Exception):
    """The world is not as the plan took it: observe again."""


class NotLeading(Exception):
    """Another operator may be acting."""


@dataclass
class Memory:
    """What the executor remembers of one deployment; losing it costs a few writes that change nothing."""

    applied: dict[Key, Applied] = field(default_factory=dict)
    refused: dict[Key, Refusal] = field(default_factory=dict)
    keys_known: bool = False


class Executor:
    def __init__(
        self,
        api: Api,
        cache: Cache,
        may_write: Callable[[], bool] = lambda: True,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._api = api
        self._cache = cache
        self._may_write = may_write
        self._clock = clock

    async def execute(self, deployment: Object, plan: Plan, owner: Owner, memory: Memory) -> Object:
        """Returns the deployment as it is then. Raises Stale, NotLeading or ApiError; a new plan makes good."""
        if plan.add_finalizer:
            return await self._set_finalizers(deployment, add=True)
        deployment = await self._write_status(deployment, plan.status)
        for manifest in plan.creates:
            await self._create(manifest, memory)
        # Who goes, goes first: new groups count on the room.
        for delete in plan.drains:
            await self._delete(delete, owner)
        for manifest in plan.applies:
            await self._apply(manifest, owner, memory)
        for delete in plan.deletes:
            await self._delete(delete, owner)
        await self._post_events(deployment, plan.events)
        if plan.remove_finalizer:
            return await self._set_finalizers(deployment, add=False)
        return deployment

    # --- the deployment itself -------------------------------------------------------------------------

    async def _write_status(self, deployment: Object, status: LLMDeploymentStatus) -> Object:
        body = status_patch(status)
        if without_nulls(body) == without_nulls(_known(deployment.get("status") or {}, body)):
            return deployment
        return await self._patch(deployment, {"status": body}, "status")

    async def _set_finalizers(self, deployment: Object, *, add: bool) -> Object:
        others = [one for one in deployment["metadata"].get("finalizers") or [] if one != FINALIZER]
        finalizers = [*others, FINALIZER] if add else others
        return await self._patch(deployment, {"metadata": {"finalizers": finalizers}})

    async def _patch(self, deployment: Object, body: Object, subresource: str = "") -> Object:
        self._check()
        metadata = deployment["metadata"]
        # Only if it is what the plan saw: the spec may have changed, or another operator may have written.
        body = body | {"metadata": body.get("metadata", {}) | {"resourceVersion": metadata["resourceVersion"]}}
        try:
            return await self._api.patch(
                "gllm.dev/v1alpha1", "LLMDeployment", metadata["namespace"], metadata["name"], body, subresource
            )
        except ApiError as error:
            if error.status in (404, 409):
                raise Stale(str(error)) from error
            raise

    # --- children --------------------------------------------------------------------------------------

    async def _create(self, manifest: Manifest, memory: Memory) -> None:
        self._check()
        try:
            await self._api.create(manifest)
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise
        memory.keys_known = True

    async def _apply(self, manifest: Manifest, owner: Owner, memory: Memory) -> None:
        self._check()
        key = key_of(manifest)
        try:
            if key not in memory.applied and await self._is_anothers(manifest, owner):
                text = "an object of this name belongs to somebody else: delete it, or rename the LLMDeployment"
                memory.refused[key] = Refusal(digest(manifest), text, final=False)
                return
            written = await self._api.apply(manifest)
        except ApiError as error:
            if not error.invalid:
                raise
            _log.warning("refused", extra={"key": key, "error": error.message})
            memory.refused[key] = Refusal(digest(manifest), error.message, final=True)
            return
        memory.refused.pop(key, None)
        memory.applied[key] = Applied(digest(manifest), written["metadata"]["uid"], owned_fields(written))
        self._cache.put(written, news=False)

    async def _is_anothers(self, manifest: Manifest, owner: Owner) -> bool:
        """Whether an object of that name is there without being the deployment's. Asked before the first write."""
        metadata = manifest["metadata"]
        try:
            found = await self._api.get(
                manifest["apiVersion"], manifest["kind"], metadata["namespace"], metadata["name"]
            )
        except ApiError as error:
            if error.status == 404:
                return False
            raise
        return controller_of(found) != owner.uid

    async def _delete(self, delete: Delete, owner: Owner) -> None:
        self._check()
        key = delete.key
        _log.info("deletes", extra={"key": key, "why": delete.why, "force": delete.force})
        try:
            left = await self._api.delete(
                key.api_version, key.kind, owner.namespace, key.name, delete.uid, force=delete.force
            )
        except ApiError as error:
            if error.status == 409:
                raise Stale(str(error)) from error
            raise
        if left is not None:
            self._cache.put({"apiVersion": key.api_version, "kind": key.kind, **left}, news=False)
            return
        for held in self._cache.of(owner.namespace, owner.name):
            if key_of(held) == key and held["metadata"]["uid"] == delete.uid:
                self._cache.remove(held, news=False)

    # --- events ------------------------------------------------------------------------------------------

    async def _post_events(self, deployment: Object, events: tuple[Event, ...]) -> None:
        metadata, now = deployment["metadata"], self._clock()
        for number, event in enumerate(events):
            body = {
                "apiVersion": "v1",
                "kind": "Event",
                "metadata": {
                    "name": f"{metadata['name']}.{int(now * 1e6):x}{number:02x}",
                    "namespace": metadata["namespace"],
                },
                "involvedObject": {
                    "apiVersion": "gllm.dev/v1alpha1",
                    "kind": "LLMDeployment",
                    "name": metadata["name"],
                    "namespace": metadata["namespace"],
                    "uid": metadata["uid"],
                },
                "type": event.type,
                "reason": event.reason,
                "message": event.message[:1024],
                "source": {"component": MANAGER},
                "reportingComponent": MANAGER,
                "reportingInstance": MANAGER,
                "firstTimestamp": stamp(now),
                "lastTimestamp": stamp(now),
                "count": 1,
            }
            try:
                await self._api.create(body)
            except ApiError as error:
                # Told by the status as well: no reason to do anything again.
                _log.warning("an event was not taken", extra={"reason": event.reason, "error": str(error)})

    def _check(self) -> None:
        if not self._may_write():
            raise NotLeading


def status_patch(status: LLMDeploymentStatus) -> Object:
    """As a JSON merge patch: null removes a field of an object; inside lists absent says the same."""
    body: Object = _patch_of(msgspec.to_builtins(status))
    return body


def _patch_of(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _patch_of(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nulls(inner) for inner in value]
    return value


def without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_nulls(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, (list, tuple)):
        return [without_nulls(inner) for inner in value]
    return value


def _known(stored: Object, body: Object) -> Object:
    """The fields of the stored status that this operator knows of."""
    return {key: value for key, value in stored.items() if key in body}

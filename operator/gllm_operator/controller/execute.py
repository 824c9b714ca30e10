"""Executes plans, and is the only writer: first the status, then the writes and deletions, then the events."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from gllm_operator.api.status import LLMDeploymentStatus
from gllm_operator.controller.memory import Memory
from gllm_operator.controller.observe import controller_of, fields_digest
from gllm_operator.kube.api import Api, ApiError
from gllm_operator.kube.cache import Cache
from gllm_operator.names import FINALIZER, MANAGER, OPERATOR, ROLE, SERVING, Owner
from gllm_operator.objects import Manifest, Object, ObjectRef, digest, ref_of, timestamp, without_nulls
from gllm_operator.plan import Delete, Event, Plan, PodLabel
from gllm_operator.plan.observed import CREATION, DELETION, Applied

_log = logging.getLogger(__name__)


class Stale(Exception):
    """The cluster has changed since it was observed: observe and plan again."""


class NotLeading(Exception):
    """This operator does not hold the lease, so it may not write."""


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
        """Return the deployment as last written. Raises Stale, NotLeading or ApiError; the next plan continues."""
        if plan.managed_by:
            await self._stand_back(deployment, plan, memory)
            return deployment
        memory.managed_by = ""
        if plan.claim:
            return await self._claim(deployment, plan.claim)
        deployment = await self._write_status(deployment, plan.status)
        for ref in plan.forget:
            memory.refused.pop(ref, None)
        for label in plan.labels:
            await self._label(label, owner)
        for manifest in plan.creates:
            await self._create(manifest, owner, memory)
        # What the API server would refuse is known before anything drains for it.
        if await self._are_refused(plan.probes, owner, memory) or await self._are_refused(
            self._new_sets(plan, owner), owner, memory
        ):
            return deployment
        # Drains come before new groups, which need the room.
        for delete in plan.drains:
            await self._delete(delete, owner, memory)
        for manifest in plan.applies:
            if not self._lacks_master(manifest, owner):
                await self._apply(manifest, owner, memory)
        for delete in plan.deletes:
            await self._delete(delete, owner, memory)
        await self._post_events(deployment, plan.events)
        if plan.remove_finalizer:
            return await self._patch(deployment, {"metadata": {"finalizers": _other_finalizers(deployment)}})
        return deployment

    # --- the deployment itself -------------------------------------------------------------------------

    async def _write_status(self, deployment: Object, status: LLMDeploymentStatus) -> Object:
        body = status_patch(status)
        if without_nulls(body) == without_nulls(_known_fields(deployment.get("status") or {}, body)):
            return deployment
        return await self._patch(deployment, {"status": body}, "status")

    async def _claim(self, deployment: Object, operator: str) -> Object:
        finalizers = [*_other_finalizers(deployment), FINALIZER]
        return await self._patch(
            deployment, {"metadata": {"finalizers": finalizers, "annotations": {OPERATOR: operator}}}
        )

    async def _stand_back(self, deployment: Object, plan: Plan, memory: Memory) -> None:
        """Say once that another operator manages the deployment."""
        if memory.managed_by != plan.managed_by:
            self._check()
            _log.warning("stands back", extra={"managed_by": plan.managed_by})
            await self._post_events(deployment, plan.events)
            memory.managed_by = plan.managed_by

    async def _patch(self, deployment: Object, body: Object, subresource: str = "") -> Object:
        self._check()
        metadata = deployment["metadata"]
        # With the resourceVersion: a user may have edited the spec, or another operator may have written.
        body = body | {"metadata": body.get("metadata", {}) | {"resourceVersion": metadata["resourceVersion"]}}
        try:
            return await self._api.patch(
                "gllm.dev/v1alpha1", "LLMDeployment", metadata["namespace"], metadata["name"], body, subresource
            )
        except ApiError as error:
            if error.status in (404, 409):
                raise Stale(str(error)) from error
            raise

    async def _label(self, label: PodLabel, owner: Owner) -> None:
        self._check()
        body = {"metadata": {"uid": label.uid, "labels": {SERVING: label.serving}}}
        try:
            found = await self._api.patch("v1", "Pod", owner.namespace, label.ref.name, body)
        except ApiError as error:
            if error.status in (404, 409):
                raise Stale(str(error)) from error
            if error.status != 403:
                raise
            # Rights of an earlier chart. The Service does not select by the label then.
            _log.warning("cannot label a pod", extra={"pod": label.ref.name, "error": error.message})
            return
        self._cache.wrote({"apiVersion": "v1", "kind": "Pod", **found})

    # --- objects of the deployment ---------------------------------------------------------------------

    async def _create(self, manifest: Manifest, owner: Owner, memory: Memory) -> None:
        self._check()
        try:
            await self._api.create(manifest)
        except ApiError as error:
            if error.reason != "AlreadyExists":
                self._refuse(ref_of(manifest), CREATION, error, owner, memory)
                return
        memory.refused.pop(ref_of(manifest), None)
        memory.keys_known = True

    def _lacks_master(self, manifest: Manifest, owner: Owner) -> bool:
        """Whether it is the slaves' StatefulSet of a group whose master's was refused: the group would count as
        draining."""
        ref = ref_of(manifest)
        if ref.kind != "StatefulSet" or manifest["metadata"]["labels"][ROLE] == "master":
            return False
        return self._cache.known(owner.namespace, ref._replace(name=ref.name.removesuffix("s") + "m")) is None

    def _new_sets(self, plan: Plan, owner: Owner) -> list[Manifest]:
        sets = [one for one in plan.applies if one["kind"] == "StatefulSet"]
        return [one for one in sets if self._cache.known(owner.namespace, ref_of(one)) is None]

    async def _are_refused(self, manifests: Iterable[Manifest], owner: Owner, memory: Memory) -> bool:
        """Ask the API server whether it would refuse any of these StatefulSets as invalid, without writing them."""
        for manifest in manifests:
            self._check()
            ref = ref_of(manifest)
            try:
                await self._api.apply(manifest, dry_run=True)
            except ApiError as error:
                # Some webhooks refuse every dry run.
                if error.invalid and "dry run" not in error.message:
                    self._refuse(ref, digest(manifest), error, owner, memory)
                    return True
            if ref in memory.refused and memory.refused[ref].invalid:
                del memory.refused[ref]
        return False

    async def _apply(self, manifest: Manifest, owner: Owner, memory: Memory) -> None:
        self._check()
        ref = ref_of(manifest)
        try:
            if ref not in memory.applied and await self._is_foreign(manifest, owner):
                text = "an object with this name belongs to another owner: delete it, or rename the LLMDeployment"
                raise ApiError(409, "Foreign", text)
            written = await self._write(manifest, owner)
        except ApiError as error:
            self._refuse(ref, digest(manifest), error, owner, memory)
            return
        memory.refused.pop(ref, None)
        memory.applied[ref] = Applied(digest(manifest), written["metadata"]["uid"], fields_digest(written))
        self._cache.wrote(written)

    async def _write(self, manifest: Manifest, owner: Owner) -> Object:
        try:
            return await self._api.apply(manifest)
        except ApiError as error:
            exists = self._cache.known(owner.namespace, ref_of(manifest)) is not None
            if not (error.invalid and exists) or manifest["kind"] == "StatefulSet":
                raise
        # An apply merges lists. What another manager has added, such as a second port of the same name, can make the
        # result invalid; a patch replaces the lists.
        metadata = manifest["metadata"]
        body = {key: value for key, value in manifest.items() if key not in ("apiVersion", "kind", "metadata")}
        await self._api.patch(manifest["apiVersion"], manifest["kind"], owner.namespace, metadata["name"], body)
        return await self._api.apply(manifest)

    def _refuse(self, ref: ObjectRef, digest: str, error: ApiError, owner: Owner, memory: Memory) -> None:
        """Note a refusal; the other objects are still written. Raises the error if it is none."""
        if not error.refusal:
            raise error
        held = self._cache.known(owner.namespace, ref)
        state = ("", "") if held is None else (held["metadata"]["uid"], fields_digest(held))
        _log.warning("the API server refuses a write", extra={"object": ref, "error": str(error)})
        memory.refuse(ref, digest, error, state, self._clock())

    async def _is_foreign(self, manifest: Manifest, owner: Owner) -> bool:
        """Whether an object with this name exists that the deployment does not control."""
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

    async def _delete(self, delete: Delete, owner: Owner, memory: Memory) -> None:
        self._check()
        ref = delete.ref
        _log.info("deletes an object", extra={"object": ref, "why": delete.why, "force": delete.force})
        try:
            left = await self._api.delete(
                ref.api_version, ref.kind, owner.namespace, ref.name, delete.uid, force=delete.force
            )
        except ApiError as error:
            if error.status == 409:
                raise Stale(str(error)) from error
            self._refuse(ref, DELETION, error, owner, memory)
            return
        memory.refused.pop(ref, None)
        if left is None:
            self._cache.deleted(owner.namespace, ref, delete.uid)
        else:
            self._cache.wrote({"apiVersion": ref.api_version, "kind": ref.kind, **left})

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
                "firstTimestamp": timestamp(now),
                "lastTimestamp": timestamp(now),
                "count": 1,
            }
            try:
                await self._api.create(body)
            except ApiError as error:
                # The status says the same, so the pass goes on.
                _log.warning("cannot post an event", extra={"reason": event.reason, "error": str(error)})

    def _check(self) -> None:
        if not self._may_write():
            raise NotLeading


def _other_finalizers(deployment: Object) -> list[str]:
    return [one for one in deployment["metadata"].get("finalizers") or [] if one != FINALIZER]


def status_patch(status: LLMDeploymentStatus) -> Object:
    """The status as a JSON merge patch. Null removes a field of an object; inside lists, nulls are left out."""
    body: Object = _patch_of(msgspec.to_builtins(status))
    return body


def _patch_of(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _patch_of(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nulls(inner) for inner in value]
    return value


def _known_fields(stored: Object, body: Object) -> Object:
    """The fields of the stored status that this version of the operator knows."""
    return {key: value for key, value in stored.items() if key in body}

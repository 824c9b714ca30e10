"""The objects that the operator owns, kept current by watches.

The operator's own writes are in the cache at once, so that the next pass sees them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from gllm_operator.names import DEPLOYMENT, GATEWAY, MANAGER
from gllm_operator.objects import Object, ObjectKey, ObjectRef, key_of, ref_of, resource_version

WATCHED: tuple[tuple[str, str], ...] = (
    ("v1", "Pod"),
    ("apps/v1", "StatefulSet"),
    ("apps/v1", "Deployment"),
    ("apps/v1", "ControllerRevision"),
    ("v1", "Service"),
    ("v1", "ServiceAccount"),
    ("policy/v1", "PodDisruptionBudget"),
    ("networking.k8s.io/v1", "NetworkPolicy"),
    ("autoscaling/v2", "HorizontalPodAutoscaler"),
)
"""Kinds that every cluster has."""


_Scope = tuple[str, str, str | None]
"""(apiVersion, kind, namespace) of a list or watch; namespace None: all."""


class Cache:
    """Objects by the LLMDeployment that they belong to, whose key `on_change` gets when one of them changes.

    Resource versions of a kind grow, and a watch delivers them in order. So whatever is not newer than the last list or
    event of its scope is old news: its object may have been deleted since, and then no event would ever remove it. The
    answer to a write may come that late, so it counts only if it is newer.
    """

    def __init__(self, on_change: Callable[[ObjectKey], None] = lambda key: None) -> None:
        self._on_change = on_change
        self._objects: dict[ObjectKey, dict[ObjectRef, Object]] = {}
        self._homes: dict[tuple[str, ObjectRef], ObjectKey] = {}
        """The deployment of each object, by namespace and name."""
        self._seen: dict[_Scope, int] = {}
        """The newest resource version that a list or an event of the scope had."""

    def of(self, deployment: ObjectKey) -> Iterator[Object]:
        return iter(list(self._objects.get(deployment, {}).values()))

    def known(self, namespace: str, ref: ObjectRef) -> Object | None:
        home = self._homes.get((namespace, ref))
        return None if home is None else self._objects[home][ref]

    # --- what informers deliver ------------------------------------------------------------------------------

    def put(self, found: Object) -> None:
        """Take a watch event: the object exists."""
        if not self._is_old(found):
            self._seen[found["apiVersion"], found["kind"], found["metadata"]["namespace"]] = resource_version(found)
            self._store(found, notify=True)

    def remove(self, gone: Object) -> None:
        """Take a watch event: the object is gone, or it lost the label by which it is watched."""
        if self._is_old(gone):
            return
        self._seen[gone["apiVersion"], gone["kind"], gone["metadata"]["namespace"]] = resource_version(gone)
        old = self.known(gone["metadata"]["namespace"], ref_of(gone))
        if old is not None and resource_version(old) <= resource_version(gone):
            self._drop(gone, notify=True)

    def replace(self, api_version: str, kind: str, namespace: str | None, items: list[Object], version: int) -> None:
        """Take the list of a namespace, or of all (None), of this version: what it lacks was deleted before."""
        scopes = [one for one in self._seen if one[:2] == (api_version, kind) and namespace in (None, one[2])]
        # Versions fall only when the cluster is restored from a backup. Then nothing that is known counts.
        restored = max((self._seen.pop(one) for one in scopes), default=-1) > version
        self._seen[api_version, kind, namespace] = version
        present = {key_of(item) for item in items}
        for deployment in [one for one in self._objects if namespace in (None, one.namespace)]:
            for old in self.of(deployment):
                gone = restored or (key_of(old) not in present and resource_version(old) <= version)
                if (old["apiVersion"], old["kind"]) == (api_version, kind) and gone:
                    self._drop(old, notify=True)
        for item in items:
            self._store(item, notify=True)

    # --- answers to the operator's writes ----------------------------------------------------------------------

    def wrote(self, found: Object) -> None:
        """Take what a write answered, so that the next pass sees it before the watch delivers it."""
        if not self._is_old(found):
            self._store(found, notify=False)

    def deleted(self, namespace: str, ref: ObjectRef, uid: str) -> None:
        """Take the answer to a deletion: the object with this uid is gone."""
        old = self.known(namespace, ref)
        if old is not None and old["metadata"]["uid"] == uid:
            self._drop(old, notify=False)

    # --- inside ------------------------------------------------------------------------------------------------

    def _is_old(self, found: Object) -> bool:
        api_version, kind, namespace = found["apiVersion"], found["kind"], found["metadata"]["namespace"]
        return resource_version(found) <= max(self._seen.get((api_version, kind, one), -1) for one in (None, namespace))

    def _store(self, found: Object, *, notify: bool) -> None:
        deployment, old = deployment_of(found), self.known(found["metadata"]["namespace"], ref_of(found))
        if old is not None and resource_version(old) >= resource_version(found):
            return
        if old is not None and deployment_of(old) != deployment:
            self._drop(old, notify=notify)
        if deployment is None:
            return
        self._objects.setdefault(deployment, {})[ref_of(found)] = _slim(found)
        self._homes[found["metadata"]["namespace"], ref_of(found)] = deployment
        if notify:
            self._on_change(deployment)

    def _drop(self, gone: Object, *, notify: bool) -> None:
        ref = ref_of(gone)
        deployment = self._homes.pop((gone["metadata"]["namespace"], ref))
        del self._objects[deployment][ref]
        if not self._objects[deployment]:
            del self._objects[deployment]
        if notify:
            self._on_change(deployment)


def deployment_of(found: Object) -> ObjectKey | None:
    """The LLMDeployment that an object's label names. Gateway pods have a label of their own."""
    labels = found["metadata"].get("labels") or {}
    name = labels.get(DEPLOYMENT) or labels.get(GATEWAY)
    return ObjectKey(found["metadata"]["namespace"], name) if name else None


def _slim(found: Object) -> Object:
    """Drop the managedFields of other managers: `observe` reads only the operator's."""
    entries = [one for one in found["metadata"].get("managedFields") or [] if one.get("manager") == MANAGER]
    return found | {"metadata": found["metadata"] | {"managedFields": entries}}

"""The objects that the operator owns, kept current by watches.

The operator puts what it writes into the cache at once, so that the next pass sees its own writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from gllm_operator.names import DEPLOYMENT, MANAGER
from gllm_operator.objects import Object, ObjectKey, ObjectRef, key_of, ref_of, resource_version

WATCHED: tuple[tuple[str, str], ...] = (
    ("v1", "Pod"),
    ("apps/v1", "StatefulSet"),
    ("apps/v1", "ControllerRevision"),
    ("v1", "Service"),
    ("v1", "ServiceAccount"),
    ("policy/v1", "PodDisruptionBudget"),
    ("networking.k8s.io/v1", "NetworkPolicy"),
    ("autoscaling/v2", "HorizontalPodAutoscaler"),
)
"""Kinds that every cluster has."""


class Cache:
    """Objects by the LLMDeployment that they belong to, whose key `on_change` gets when one of them changes."""

    def __init__(self, on_change: Callable[[ObjectKey], None] = lambda key: None) -> None:
        self._on_change = on_change
        self._objects: dict[ObjectKey, dict[ObjectRef, Object]] = {}

    def of(self, deployment: ObjectKey) -> Iterator[Object]:
        return iter(list(self._objects.get(deployment, {}).values()))

    def put(self, found: Object, *, notify: bool = True) -> None:
        """Store an object unless a newer version is known. The operator's own writes need no `notify`."""
        deployment = deployment_of(found)
        if deployment is None:
            return
        known = self._objects.setdefault(deployment, {})
        ref = ref_of(found)
        old = known.get(ref)
        if (
            old is not None
            and resource_version(old) >= resource_version(found)
            and old["metadata"]["uid"] == found["metadata"]["uid"]
        ):
            return
        known[ref] = _slim(found)
        if notify:
            self._on_change(deployment)

    def remove(self, gone: Object, *, notify: bool = True) -> None:
        """Forget an object, unless another one has its name by now."""
        deployment = deployment_of(gone)
        if deployment is None:
            return
        known = self._objects.get(deployment, {})
        ref = ref_of(gone)
        old = known.get(ref)
        if old is None or old["metadata"]["uid"] != gone["metadata"]["uid"]:
            return
        del known[ref]
        if not known:
            self._objects.pop(deployment, None)
        if notify:
            self._on_change(deployment)

    def replace(self, api_version: str, kind: str, items: list[Object]) -> None:
        """Take the result of a list: objects of this kind that it lacks were deleted."""
        present = {key_of(item) for item in items}
        for deployment in list(self._objects):
            for ref, known in list(self._objects.get(deployment, {}).items()):
                if (ref.api_version, ref.kind) == (api_version, kind) and key_of(known) not in present:
                    self.remove(known)
        for item in items:
            self.put(item)


def deployment_of(found: Object) -> ObjectKey | None:
    """The LLMDeployment that an object's label names."""
    name = (found["metadata"].get("labels") or {}).get(DEPLOYMENT)
    return ObjectKey(found["metadata"]["namespace"], name) if name else None


def _slim(found: Object) -> Object:
    """Drop the managedFields of other managers: `observe` reads only the operator's."""
    entries = [one for one in found["metadata"].get("managedFields") or [] if one.get("manager") == MANAGER]
    return found | {"metadata": found["metadata"] | {"managedFields": entries}}

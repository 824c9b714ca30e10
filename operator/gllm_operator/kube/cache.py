"""All children, kept current by watches. What the operator writes goes in at once, so that it sees its own deeds."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from gllm_operator.kube.api import Object
from gllm_operator.names import DEPLOYMENT, MANAGER

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

Place = tuple[str, str]
"""(namespace, name of the LLMDeployment)."""


class Cache:
    """`on_change` is called with the deployment whose children have changed."""

    def __init__(self, on_change: Callable[[Place], None] = lambda place: None) -> None:
        self._on_change = on_change
        self._objects: dict[Place, dict[tuple[str, str, str], Object]] = {}

    def of(self, namespace: str, deployment: str) -> Iterator[Object]:
        return iter(list(self._objects.get((namespace, deployment), {}).values()))

    def put(self, found: Object, *, news: bool = True) -> None:
        """Unless a newer one is known. `news`: somebody else's deed, which the deployment's loop has to see."""
        place = place_of(found)
        if place is None:
            return
        held = self._objects.setdefault(place, {})
        key = _key(found)
        old = held.get(key)
        if old is not None and _version(old) >= _version(found) and old["metadata"]["uid"] == found["metadata"]["uid"]:
            return
        held[key] = _slim(found)
        if news:
            self._on_change(place)

    def remove(self, gone: Object, *, news: bool = True) -> None:
        place = place_of(gone)
        if place is None:
            return
        held = self._objects.get(place, {})
        old = held.get(_key(gone))
        if old is None or old["metadata"]["uid"] != gone["metadata"]["uid"]:
            return
        del held[_key(gone)]
        if not held:
            self._objects.pop(place, None)
        if news:
            self._on_change(place)

    def replace(self, api_version: str, kind: str, items: list[Object]) -> None:
        """After a list: what is not in it is gone."""
        present = {(item["metadata"]["namespace"], item["metadata"]["name"]) for item in items}
        for place in list(self._objects):
            for (version, of_kind, name), held in list(self._objects.get(place, {}).items()):
                if (version, of_kind) == (api_version, kind) and (place[0], name) not in present:
                    self.remove(held)
        for item in items:
            self.put(item)


def place_of(found: Object) -> Place | None:
    name = (found["metadata"].get("labels") or {}).get(DEPLOYMENT)
    return (found["metadata"]["namespace"], name) if name else None


def _key(found: Object) -> tuple[str, str, str]:
    return found["apiVersion"], found["kind"], found["metadata"]["name"]


def _version(found: Object) -> int:
    """Resource versions of one kind of one server are numbers that grow; Kubernetes promises so since 1.35."""
    text = str(found["metadata"].get("resourceVersion", "0"))
    return int(text) if text.isdigit() else 0


def _slim(found: Object) -> Object:
    """Of managedFields only our own, which `observe` looks at."""
    entries = [one for one in found["metadata"].get("managedFields") or [] if one.get("manager") == MANAGER]
    return found | {"metadata": found["metadata"] | {"managedFields": entries}}

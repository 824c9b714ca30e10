"""The interface of an API server. `client.py` implements it over HTTP; tests have one in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from gllm_operator.objects import Object

PLURALS = {
    ("v1", "Pod"): "pods",
    ("v1", "Node"): "nodes",
    ("v1", "Service"): "services",
    ("v1", "ServiceAccount"): "serviceaccounts",
    ("v1", "Secret"): "secrets",
    ("v1", "ConfigMap"): "configmaps",
    ("v1", "Event"): "events",
    ("apps/v1", "Deployment"): "deployments",
    ("apps/v1", "StatefulSet"): "statefulsets",
    ("apps/v1", "ControllerRevision"): "controllerrevisions",
    ("policy/v1", "PodDisruptionBudget"): "poddisruptionbudgets",
    ("networking.k8s.io/v1", "NetworkPolicy"): "networkpolicies",
    ("autoscaling/v2", "HorizontalPodAutoscaler"): "horizontalpodautoscalers",
    ("coordination.k8s.io/v1", "Lease"): "leases",
    ("keda.sh/v1alpha1", "ScaledObject"): "scaledobjects",
    ("monitoring.coreos.com/v1", "PodMonitor"): "podmonitors",
    ("gateway.networking.k8s.io/v1", "HTTPRoute"): "httproutes",
    ("inference.networking.k8s.io/v1", "InferencePool"): "inferencepools",
    ("gllm.dev/v1alpha1", "LLMDeployment"): "llmdeployments",
    ("apiextensions.k8s.io/v1", "CustomResourceDefinition"): "customresourcedefinitions",
}


def path_of(api_version: str, kind: str, namespace: str | None, name: str = "", subresource: str = "") -> str:
    root = f"/api/{api_version}" if "/" not in api_version else f"/apis/{api_version}"
    parts = [root]
    if namespace:
        parts.append(f"namespaces/{namespace}")
    parts.append(PLURALS[api_version, kind])
    parts += [part for part in (name, subresource) if part]
    return "/".join(parts)


class ApiError(Exception):
    """The API server refused a request, or could not be reached (status 0)."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"{status} {reason}: {message}" if status else message)
        self.status = status
        self.reason = reason
        self.message = message

    @property
    def invalid(self) -> bool:
        """Whether the object was found wrong, and not the circumstances."""
        return self.status in (400, 422)

    @property
    def refusal(self) -> bool:
        """Whether this one request is refused: by its content, a right, a quota, a policy, or a webhook that is down
        (500). Otherwise the server cannot be reached or is overloaded, and other requests would fare no better."""
        return 400 <= self.status <= 500 and self.status not in (401, 408, 429)


class Api(Protocol):
    async def get(self, api_version: str, kind: str, namespace: str, name: str) -> Object: ...

    async def list(
        self, api_version: str, kind: str, namespace: str | None, selector: str = "", fields: str = ""
    ) -> tuple[list[Object], str]:
        """Return the items, with apiVersion and kind filled in, and the resourceVersion to watch from.

        selector, fields: a label selector and a field selector.
        """

    def watch(
        self, api_version: str, kind: str, namespace: str | None, selector: str, version: str, fields: str = ""
    ) -> AsyncIterator[tuple[str, Object]]:
        """Yield (ADDED | MODIFIED | DELETED | BOOKMARK, object) until the server ends the watch.

        Raises ApiError; its status 410 means that `version` has expired and the caller must list again.
        """

    async def create(self, manifest: Object) -> Object: ...

    async def apply(self, manifest: Object, *, dry_run: bool = False) -> Object:
        """Server-side apply with the operator's field manager, which takes over conflicting fields.

        dry_run: check it as if it were written, with all policies.
        """

    async def patch(
        self, api_version: str, kind: str, namespace: str, name: str, body: Object, subresource: str = ""
    ) -> Object:
        """JSON merge patch. With metadata.resourceVersion in the body, raises 409 if the object has changed."""

    async def delete(
        self, api_version: str, kind: str, namespace: str, name: str, uid: str, *, force: bool = False
    ) -> Object | None:
        """Return the terminating object, or None if it is gone. Raises ApiError 409 if the object has another uid."""

    async def has_api(self, api_version: str) -> bool: ...

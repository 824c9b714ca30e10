"""spec.gateway.parent: which deployments share the gateways of one, and what both sides see of each other.

A deployment asks for it in its own spec, as an HTTPRoute names its Gateway. The parent's gateways serve it unless that
would harm those that they serve already. All that is read here are LLMDeployments of one namespace, and for a child the
parent's gateways.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from gllm_operator.build.model_source import served_name
from gllm_operator.controller.spec_of import decode_spec
from gllm_operator.names import shared_gateways_selector
from gllm_operator.objects import Object
from gllm_operator.plan.validate import child_gateway
from gllm_operator.spec.revision import pod_source
from gllm_operator.spec.shared_model import SharedModel


@dataclass(frozen=True)
class Sharing:
    models: tuple[SharedModel, ...] = ()
    """Further models of a deployment's own gateways."""
    refusal: str = ""
    """Why the gateways of its parent do not serve a deployment; empty: they do, or it has no parent."""
    gateways: tuple[Object, ...] = ()
    """The parent's Deployment and its gateway pods that serve a deployment."""


NO_SHARING = Sharing()


def parent_of(deployment: Object) -> str | None:
    found = _gateway(deployment).get("parent")
    return str(found) if found else None


def sharing(
    deployment: Object,
    namespace: Iterable[Object],
    objects_of: Callable[[str], Iterable[Object]],
    default_image: str,
) -> Sharing:
    """namespace: its LLMDeployments. objects_of: the objects of one of them, by its name."""
    name, parent = deployment["metadata"]["name"], parent_of(deployment)
    if parent is None:
        if not _gateway(deployment):
            return NO_SHARING
        models, _ = _children(deployment, namespace, default_image)
        return Sharing(models=models)
    label = shared_gateways_selector(name)
    found = [one for one in objects_of(parent) if label.items() <= _pod_labels(one).items()]
    others = list(namespace)
    return Sharing(refusal=_refusal(deployment, parent, others, default_image), gateways=tuple(found))


def _refusal(deployment: Object, parent: str, namespace: Iterable[Object], default_image: str) -> str:
    name = deployment["metadata"]["name"]
    others = {one["metadata"]["name"]: one for one in namespace}
    found = others.get(parent)
    if found is None:
        return f"there is no LLMDeployment {parent} in this namespace: create it, or change gateway.parent"
    if not _gateway(found) or parent_of(found) is not None:
        return f"LLMDeployment {parent} has no gateways of its own: give it spec.gateway, or change gateway.parent"
    if "deletionTimestamp" in found["metadata"]:
        return f"LLMDeployment {parent} is being deleted: remove gateway.parent, or name another one"
    _, refused = _children(found, others.values(), default_image)
    return refused.get(name, "")


def _children(
    parent: Object, namespace: Iterable[Object], default_image: str
) -> tuple[tuple[SharedModel, ...], Mapping[str, str]]:
    """Return the models that the gateways of `parent` serve too, and why they do not serve the others, by name.

    The oldest deployment has the first right to a name in requests.
    """
    spec, _ = decode_spec(parent.get("spec"))
    taken = {} if spec is None else {served_name(spec.model): parent["metadata"]["name"]}
    found = [one for one in namespace if parent_of(one) == parent["metadata"]["name"]]
    found.sort(key=lambda one: (one["metadata"].get("creationTimestamp") or "", one["metadata"]["name"]))
    models, refused = [], {}
    for one in found:
        name = one["metadata"]["name"]
        own, _ = decode_spec(one.get("spec"))
        if own is None or own.gateway is None or "deletionTimestamp" in one["metadata"] or child_gateway(own.gateway):
            continue  # Its own status tells what is wrong with its spec.
        served = served_name(own.model)
        if served in taken:
            refused[name] = (
                f"the gateways serve {served!r} of LLMDeployment {taken[served]} already: set another model.servedNames"
            )
        elif _api_key(one) != _api_key(parent):
            refused[name] = "the gateways have one API key: make server.apiKeySecretRef equal to that of the parent"
        else:
            taken[served] = name
            models.append(SharedModel(name, own.gateway, pod_source(own, name, own.image or default_image)))
    return tuple(models), refused


def _gateway(deployment: Object) -> Mapping[str, Any]:
    """spec.gateway as it is, because this is asked of all deployments of a namespace."""
    found = (deployment.get("spec") or {}).get("gateway")
    return found if isinstance(found, dict) else {}


def _api_key(deployment: Object) -> object:
    return ((deployment.get("spec") or {}).get("server") or {}).get("apiKeySecretRef")


def _pod_labels(found: Object) -> Mapping[str, str]:
    """The labels of a pod, or of the pods of a Deployment."""
    if found["kind"] == "Deployment":
        found = found["spec"]["template"]
    elif found["kind"] != "Pod":
        return {}
    return found["metadata"].get("labels") or {}

"""Builds the CustomResourceDefinition."""

from __future__ import annotations

from typing import Any

from gllm_operator.api import GROUP, KIND, PLURAL, SHORT_NAME, VERSION, LLMDeploymentSpec, LLMDeploymentStatus
from gllm_operator.api.spec import ROOT_RULES
from gllm_operator.crd.schema import object_schema, rules_schema

_LIST_KEYS = {"conditions": ["type"], "groups": ["name"], "places": ["index"]}
"""Lists of the status that are maps by these keys, for server-side apply and for patches."""


def crd() -> dict[str, Any]:
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{PLURAL}.{GROUP}",
            "labels": {"app.kubernetes.io/name": "gllm", "app.kubernetes.io/part-of": "gllm"},
        },
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": KIND.lower(),
                "shortNames": [SHORT_NAME],
                "categories": ["all", "gllm"],
            },
            "versions": [_version()],
        },
    }


def _version() -> dict[str, Any]:
    status = object_schema(LLMDeploymentStatus)
    for name, keys in _LIST_KEYS.items():
        status["properties"][name] |= {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": keys}
    spec = object_schema(LLMDeploymentSpec)
    spec["properties"]["network"]["properties"]["extraEnv"] |= {
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["name"],
    }
    return {
        "name": VERSION,
        "served": True,
        "storage": True,
        "subresources": {
            "status": {},
            "scale": {
                "specReplicasPath": ".spec.replicas",
                "statusReplicasPath": ".status.replicas",
                "labelSelectorPath": ".status.selector",
            },
        },
        "additionalPrinterColumns": _columns(),
        "schema": {
            "openAPIV3Schema": {
                "type": "object",
                "description": "An LLMDeployment serves a model over the OpenAI API by groups of pods.",
                "required": ["spec"],
                "properties": {
                    "apiVersion": {"type": "string"},
                    "kind": {"type": "string"},
                    "metadata": {"type": "object", "properties": {"name": {"type": "string"}}},
                    "spec": spec | {"description": "The desired state of the deployment."},
                    "status": _without_defaults(status) | {"description": "The observed state of the deployment."},
                },
                "x-kubernetes-validations": rules_schema(ROOT_RULES),
            }
        },
    }


def _columns() -> list[dict[str, Any]]:
    def column(name: str, path: str, kind: str = "string", wide: bool = False, text: str = "") -> dict[str, Any]:
        return (
            {"name": name, "type": kind, "jsonPath": path}
            | ({"priority": 1} if wide else {})
            | ({"description": text} if text else {})
        )

    return [
        column("Ready", ".status.ready", text="Ready groups, and groups that the spec asks for."),
        column("Up-to-date", ".status.updatedReplicas", "integer", text="Groups of the update revision that serve."),
        column("Shape", ".status.shape.summary"),
        column("Model", ".spec.model.source"),
        column(
            "Reason", ".status.reason", text="The reason of the most important condition; `kubectl describe` shows all."
        ),
        column("Age", ".metadata.creationTimestamp", "date"),
        column("URL", ".status.endpoint.url", wide=True),
        column("Revision", ".status.updateRevision", wide=True),
        column("GPUs", ".status.shape.accelerators", "integer", wide=True),
        column("Operator", ".status.operator", wide=True, text="The operator that manages the deployment."),
        column("Fits", ".status.estimate.fits", wide=True),
        column(
            "Message",
            '.status.conditions[?(@.type=="Ready")].message',
            wide=True,
            text="The message of the condition Ready.",
        ),
    ]


def _without_defaults(schema: Any) -> Any:
    """A status needs no defaults, because the operator writes all its fields."""
    if isinstance(schema, dict):
        return {key: _without_defaults(value) for key, value in schema.items() if key != "default"}
    if isinstance(schema, list):
        return [_without_defaults(item) for item in schema]
    return schema

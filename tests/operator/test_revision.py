"""A revision depends on the values of a spec, not on how the manifest states them."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from gllm_operator.api import LLMDeploymentSpec
from gllm_operator.crd.definition import crd
from gllm_operator.spec.revision import pod_source, record_of, revision_of, source_of

SPEC: dict[str, Any] = {"model": {"source": "file:///m"}, "image": "a", "probes": {"periodSeconds": 1}}


def with_defaults(schema: dict[str, Any], value: Any) -> Any:
    """Fill in the defaults, as the API server does."""
    if schema["type"] != "object" or "properties" not in schema:
        return value
    filled = dict(value)
    for name, field in schema["properties"].items():
        if name not in filled and "default" in field:
            filled[name] = field["default"]
        if name in filled and isinstance(filled[name], dict):
            filled[name] = with_defaults(field, filled[name])
    return filled


def test_explicit_defaults_do_not_change_the_revision() -> None:
    schema = crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    filled = json.loads(json.dumps(with_defaults(schema, SPEC)))
    assert filled["probes"]["joinTimeoutSeconds"] == 1800
    plain = pod_source(msgspec.convert(SPEC, LLMDeploymentSpec), "x", "")
    served = pod_source(msgspec.convert(filled, LLMDeploymentSpec), "x", "")
    assert record_of(served) == record_of(plain)
    assert revision_of(served) == revision_of(plain) == revision_of(source_of(record_of(served)))

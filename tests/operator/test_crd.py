"""The CRD in the tree is generated from the types, and follows the conventions of Kubernetes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gllm_operator.crd.__main__ import text
from gllm_operator.crd.definition import crd

_FILE = Path(__file__).parents[2] / "crds" / "llmdeployments.yaml"


def _version() -> dict[str, Any]:
    found: dict[str, Any] = crd()["spec"]["versions"][0]
    return found


def test_the_file_is_up_to_date() -> None:
    assert _FILE.read_text() == text(), "python -m gllm_operator.crd > crds/llmdeployments.yaml"


def test_every_field_is_described_and_every_list_is_bounded() -> None:
    def walk(schema: dict[str, Any], path: str) -> None:
        for name, field in schema.get("properties", {}).items():
            if path:
                assert field.get("description"), f"{path}.{name}"
            walk(field, f"{path}.{name}")
        if schema.get("type") == "array":
            assert "maxItems" in schema, path
            walk(schema["items"], path + "[]")

    walk(_version()["schema"]["openAPIV3Schema"]["properties"]["spec"], "spec")
    walk(_version()["schema"]["openAPIV3Schema"]["properties"]["status"], "status")


def test_messages_of_rules_name_the_fix_and_fit_on_a_line() -> None:
    def walk(schema: Any) -> list[str]:
        if isinstance(schema, dict):
            own = [one["message"] for one in schema.get("x-kubernetes-validations", [])]
            return own + [text for value in schema.values() for text in walk(value)]
        return [text for value in schema for text in walk(value)] if isinstance(schema, list) else []

    messages = walk(_version()["schema"])
    assert len(messages) == len(set(messages)) >= 15
    assert all(20 < len(message) < 200 for message in messages)


def test_scale_selects_masters_and_status_is_a_subresource() -> None:
    assert _version()["subresources"]["scale"]["labelSelectorPath"] == ".status.selector"
    assert "status" in _version()["subresources"]
    assert [one["name"] for one in _version()["additionalPrinterColumns"]][:6] == [
        "Ready",
        "Up-to-date",
        "Shape",
        "Model",
        "Reason",
        "Age",
    ]

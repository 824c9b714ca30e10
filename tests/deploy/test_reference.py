"""docs/llmdeployment.md is generated from the CRD."""

from __future__ import annotations

from fixtures.kube_tools import ROOT
from gllm_operator.crd.reference import text


def test_the_reference_is_up_to_date() -> None:
    fix = "run: .venv/bin/python -m gllm_operator.crd.reference > docs/llmdeployment.md"
    assert (ROOT / "docs/llmdeployment.md").read_text() == text(), fix


def test_every_field_is_described() -> None:
    for line in text().splitlines():
        if line.startswith("| `"):
            assert line.rstrip(" |").rpartition("|")[2].strip(), line

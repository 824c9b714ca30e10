"""Every condition and reason that the operator writes is in the table of docs/kubernetes.md."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import gllm_operator.plan.conditions
import gllm_operator.plan.ready
import gllm_operator.plan.refusals
from fixtures.kube_tools import ROOT

_PAGE = (ROOT / "docs/kubernetes.md").read_text()
_OTHER = {"True", "False", "Unknown", "StatefulSet", "Pending", "Failed", "BackingOff", "Broken", "Recovering"}
_OTHER |= {"Ready", "Draining", "Accepted", "Loading", "Not"}
"""Words of these modules that are no reason: states, kinds, phases."""
_SAYS_NOTHING = {"SpecValid", "AsExpected", "EnoughGroups"}
"""Reasons of conditions for which nothing is to be known or done."""


@pytest.mark.parametrize("name", ["ready", "conditions", "refusals"])
def test_every_reason_is_in_the_docs(name: str) -> None:
    path = Path(getattr(gllm_operator.plan, name).__file__)
    texts = {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}
    words = {text for text in texts if isinstance(text, str) and re.fullmatch(r"[A-Z][A-Za-z]+", text)}
    missing = {word for word in words - _OTHER - _SAYS_NOTHING if not re.search(rf"\b{word}\b", _PAGE)}
    assert words
    assert not missing, "add them to the table of conditions in docs/kubernetes.md"

"""The health check for Argo CD in docs/kubernetes.md, run by a Lua interpreter where there is one."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from typing import Any

import pytest
import yaml

from fixtures.kube_tools import ROOT
from fixtures.operator_harness import SPEC, OperatorHarness
from gllm_operator.objects import Object


def script() -> str:
    page = (ROOT / "docs/kubernetes.md").read_text()
    (text,) = re.findall(r"```yaml\n(resource\.customizations\.health\.gllm\.dev_LLMDeployment.*?)```", page, re.DOTALL)
    found: str = yaml.safe_load(text)["resource.customizations.health.gllm.dev_LLMDeployment"]
    return found


def to_lua(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"[{json.dumps(key)}] = {to_lua(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "{" + ", ".join(map(to_lua, value)) + "}"
    return "nil" if value is None else json.dumps(value)


def health(found: Object) -> str:
    program = f"local obj = {to_lua(found)}\nlocal function check()\n{script()}\nend\nlocal health = check()\n"
    lua = shutil.which("lua") or shutil.which("lua5.4") or shutil.which("luajit")
    if lua is not None:
        command = [lua, "-"]
        done = subprocess.run(
            command, input=program + "print(health.status)", capture_output=True, text=True, check=True
        )
        return done.stdout.strip()
    lupa = pytest.importorskip("lupa", reason="needs lua, luajit or the package lupa")
    return str(lupa.LuaRuntime().execute(program + "return health.status"))


def test_the_health_through_a_life() -> None:
    harness = OperatorHarness(SPEC)
    assert health(harness.deployment or {}) == "Progressing"
    harness.run_pass()
    assert health(harness.deployment or {}) == "Progressing"
    harness.run_until_quiet()
    assert health(harness.deployment or {}) == "Healthy"
    harness.edit(lambda one: one.update(image="gllm:2"))
    assert health(harness.deployment or {}) == "Progressing", "the operator has not seen the edit"
    harness.run_pass()
    assert health(harness.deployment or {}) == "Progressing"
    harness.run_until_quiet()
    assert health(harness.deployment or {}) == "Healthy"
    harness.edit(lambda one: one.update(suspend=True))
    harness.run_until_quiet()
    assert health(harness.deployment or {}) == "Suspended"
    harness.edit(lambda one: one.update(suspend=False, engine={"extraArgs": ["--pp", "4"]}))
    harness.run_until_quiet()
    assert health(harness.deployment or {}) == "Degraded"

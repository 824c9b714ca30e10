"""`helm upgrade --reuse-values` from the chart of commit 7552eb9, on a real API server."""

from __future__ import annotations

import asyncio
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from fixtures.api_server import write_kubeconfig
from fixtures.kube_tools import ROOT, tool
from gllm_operator.kube.client import ApiClient
from gllm_operator.kube.login import Login
from gllm_operator.objects import Object

HELM = tool("helm")

pytestmark = pytest.mark.skipif(HELM is None, reason="no helm on the PATH or in ../shared/k8s")


def test_values_are_reused(login: Login, namespace: str, tmp_path: Path) -> None:
    def helm(*arguments: str) -> Any:
        assert HELM is not None
        command = [HELM, "--kubeconfig", str(tmp_path / "kubeconfig"), "-n", namespace, *arguments, "-o", "json"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    async def operator() -> Object:
        async with ApiClient(login) as api:
            found = await api.get("apps/v1", "Deployment", namespace, namespace)
            container: Object = found["spec"]["template"]["spec"]["containers"][0]
            return {one["name"]: one.get("value", "") for one in container["env"]}

    write_kubeconfig(login, tmp_path / "kubeconfig")
    # The CRD of this API server belongs to other tests.
    given = ("--set", f"crds.install=false,runtimeImage=r/gllm:1,fullnameOverride={namespace}")
    helm("install", "gllm", str(ROOT / "tests/fixtures/older_chart"), *given)
    upgraded = helm("upgrade", "gllm", str(ROOT / "charts/gllm"), "--reuse-values", "--set", "operator.leaseSeconds=20")
    assert upgraded["info"]["status"] == "deployed"
    env = asyncio.run(operator())
    assert (env["GLLM_OPERATOR_DEFAULT_IMAGE"], env["GLLM_OPERATOR_LEASE_SECONDS"]) == ("r/gllm:1", "20")
    assert env["GLLM_OPERATOR_DRAIN_TAINTS"].startswith("ToBeDeletedByClusterAutoscaler,"), "a value it has gained"
    helm("upgrade", "gllm", str(ROOT / "charts/gllm"), "--reuse-values")
    assert asyncio.run(operator()) == env

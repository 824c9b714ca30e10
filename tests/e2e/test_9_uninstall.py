"""helm uninstall with a deployment that serves: nothing hangs, and nothing is left."""

from __future__ import annotations

import time

from e2e.kube import Kube, until
from e2e.steps import NAMESPACE, serving


def test_uninstall_leaves_nothing(kube: Kube) -> None:
    serving(kube)
    began = time.monotonic()
    kube.helm("uninstall", "gllm", "-n", NAMESPACE, "--wait", "--timeout", "5m")
    print(f"\n  helm uninstall: {time.monotonic() - began:.0f} s", flush=True)

    def left() -> list[str]:
        everywhere = kube.kubectl("get", "crd,clusterrole,clusterrolebinding", "-o", "name").splitlines()
        found = [name for name in everywhere if "gllm" in name]
        kinds = "all,sa,secret,cm,pdb,netpol,controllerrevisions,leases,role,rolebinding,hpa"
        for namespace in ("default", NAMESPACE):
            names = kube.kubectl("get", kinds, "-n", namespace, "-o", "name").splitlines()
            found += [name for name in names if "gllm" in name or "smol" in name]
        return found

    until("nothing left", lambda: not left(), 60, lambda: str(left()))

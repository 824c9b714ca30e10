"""The cluster for the end-to-end tests: KUBECONFIG, else kind, else a cluster of ../shared/k8s."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fixtures.kube_tools import CLUSTER, ROOT, cluster_bin, tool

RUNTIME, OPERATOR = "gllm:dev", "gllm-operator:dev"
SHARED_CONFIG = Path(os.environ.get("K8S_DIR", "/tmp/k8s")) / "kubeconfig"
_NAME = "gllm-e2e"


@dataclass(frozen=True)
class Cluster:
    kubeconfig: str
    kind: str
    """given, shared or kind."""
    runtime: str = RUNTIME
    operator: str = OPERATOR

    def do(self, *arguments: str) -> None:
        """kill, revive, cut, heal, pause or resume: only the shared cluster supports these."""
        run([str(CLUSTER), *arguments])

    def build(self, image: str, folder: Path) -> None:
        """Build a Dockerfile's image into every node; not on a cluster that was given from outside."""
        if self.kind == "shared":
            run([str(CLUSTER), "build", "-t", image, str(folder)])
        else:
            run(["docker", "build", "-t", image, str(folder)])
            run(["kind", "load", "docker-image", image, "--name", _NAME])


class Missing(Exception):
    """There is no cluster; the message says what to do."""


def run(command: list[str], seconds: float = 900, **more: str) -> str:
    began = time.monotonic()
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=seconds, check=False, cwd=ROOT, env={**os.environ, **more}
    )
    if done.returncode:
        raise RuntimeError(
            f"{' '.join(command)}: exit status {done.returncode}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        )
    if time.monotonic() - began > 20:
        print(f"  {' '.join(command[:4])} ... took {time.monotonic() - began:.0f} s", flush=True)
    return done.stdout


@contextmanager
def some_cluster() -> Iterator[Cluster]:
    """Yield a cluster with both images. A cluster that was started here is stopped afterwards."""
    if config := os.environ.get("KUBECONFIG"):
        yield _given(config)
    elif shutil.which("kind") and shutil.which("docker"):
        yield from _kind()
    elif cluster_bin() is not None:
        yield from _shared()
    else:
        raise Missing(
            "make test-cluster needs a Kubernetes: set KUBECONFIG (with GLLM_RUNTIME_IMAGE and GLLM_OPERATOR_IMAGE, "
            "images of the targets demo and operator that it can pull), or install kind and docker"
        )


def _given(config: str) -> Cluster:
    runtime, operator = os.environ.get("GLLM_RUNTIME_IMAGE"), os.environ.get("GLLM_OPERATOR_IMAGE")
    if not runtime or not operator:
        raise Missing(
            "with KUBECONFIG, set GLLM_RUNTIME_IMAGE and GLLM_OPERATOR_IMAGE: images of the Dockerfile's targets demo "
            "and operator that this cluster can pull"
        )
    kind = "shared" if Path(config).resolve() == SHARED_CONFIG.resolve() and cluster_bin() else "given"
    return Cluster(config, kind, runtime, operator)


def _shared() -> Iterator[Cluster]:
    # This fails if such a cluster already runs, and does not change it.
    print("  " + run([str(CLUSTER), "up", "--nodes", "2", "--gpus", "8"], 300).splitlines()[0], flush=True)
    try:
        build_images()
        yield Cluster(str(SHARED_CONFIG), "shared")
    finally:
        run([str(CLUSTER), "down"], 120)


def build_images() -> None:
    """Build both images into the nodes of the shared cluster. Its tool passes no options to buildah, so target and
    arguments are written into a copy of the Dockerfile."""
    with tempfile.TemporaryDirectory() as folder:
        for part in ("docker", "runtime", "kernels", "operator"):
            shutil.copytree(ROOT / part, Path(folder) / part, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
        for part in ("pyproject.toml", "setup.py", "README.md", ".dockerignore"):
            shutil.copy2(ROOT / part, folder)
        # This machine's own package index has the CPU build of torch.
        text = re.sub(
            r"^ARG TORCH_INDEX=.*$", "ARG TORCH_INDEX=", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE
        )
        for target, tag in (("operator", OPERATOR), ("demo", RUNTIME)):
            began = time.monotonic()
            (Path(folder) / "Dockerfile").write_text(f"{text}\nFROM {target}\n")
            run([str(CLUSTER), "build", "-t", tag, folder], 1500)
            print(f"  image {tag}: built and loaded in {time.monotonic() - began:.0f} s", flush=True)


def _kind() -> Iterator[Cluster]:
    config = f"/tmp/{_NAME}.kubeconfig"
    run(["kind", "create", "cluster", "--name", _NAME, "--kubeconfig", config, "--wait", "120s"])
    try:
        for target, tag in (("demo", RUNTIME), ("operator", OPERATOR)):
            run(["docker", "build", "-t", tag, "--target", target, "."], 1500)
            run(["kind", "load", "docker-image", tag, "--name", _NAME])
        yield Cluster(config, "kind")
    finally:
        run(["kind", "delete", "cluster", "--name", _NAME])


def program(name: str) -> str:
    found = tool(name)
    if found is None:
        raise Missing(f"make test-cluster needs {name} on the PATH")
    return found


if __name__ == "__main__":
    # PYTHONPATH=tests .venv/bin/python -m e2e.cluster: the images, into a cluster of ../shared/k8s that is up.
    build_images()

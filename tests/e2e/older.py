"""An operator of another version: an older commit, with another grace period, so that it renders pods differently."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

from e2e.cluster import Cluster
from fixtures.kube_tools import ROOT

_IMAGE = "gllm-operator:older"
_PARTS = ("operator/gllm_operator", "runtime/gllm", "charts/gllm")
_RENDERED = "tests/operator/golden/cpu.out.yaml"
"""The rendered objects of a deployment like examples/smol.yaml."""


def sources(folder: Path) -> str:
    """Write the older operator and its chart into the folder, and return what they are.

    They are those of the commit before the objects of a deployment were last rendered differently. That may have
    changed other objects than pods, so the grace period is changed, too. Without the history of git (a shallow clone,
    an archive) they are this tree's.
    """
    what = _copy(folder)
    probes = folder / "operator/gllm_operator/build/probes.py"
    text, found = re.subn(r"^_GRACE_SECONDS = \d+", "_GRACE_SECONDS = 27", probes.read_text(), flags=re.MULTILINE)
    assert found == 1, "build/probes.py has no _GRACE_SECONDS"
    probes.write_text(text)
    return f"{what}, with _GRACE_SECONDS = 27"


def _copy(folder: Path) -> str:
    if commit := _git("log", "-1", "--format=%H", "--", _RENDERED).decode().strip():
        archive = _git("archive", f"{commit}^", *_PARTS)
        if archive:
            with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
                tar.extractall(folder, filter="data")
            return f"commit {_git('rev-parse', '--short', f'{commit}^').decode().strip()}"
    for part in _PARTS:
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    return "a copy of this tree"


def build(cluster: Cluster, folder: Path) -> str:
    """Build an image with these sources in front of those of this tree's image, and return its name."""
    dockerfile = f"FROM {cluster.operator}\nCOPY operator runtime /older/\nENV PYTHONPATH=/older\n"
    (folder / "Dockerfile").write_text(dockerfile)
    cluster.build(_IMAGE, folder)
    return _IMAGE


def _git(*arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], capture_output=True, check=False, cwd=ROOT).stdout

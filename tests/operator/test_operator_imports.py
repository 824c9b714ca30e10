"""Packages of the operator import only those before them in the list, as docs/architecture.md says."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import gllm_operator

_ROOT = Path(gllm_operator.__file__).parent
_ORDER = ("names", "objects", "api", "crd", "spec", "build", "plan", "kube", "controller", "local", "show", "process")
_TOP = ("uninstall", "__main__", "__init__")


def _entry(path: Path) -> str:
    return path.relative_to(_ROOT).parts[0].removesuffix(".py")


def _imports(path: Path) -> set[str]:
    """Entries of the operator that a module imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("gllm_operator."):
            names.add(node.module.split(".")[1])
        elif isinstance(node, ast.ImportFrom) and node.module == "gllm_operator":
            names |= {alias.name for alias in node.names}
    return names


def test_the_list_is_complete() -> None:
    assert {_entry(path) for path in _ROOT.rglob("*.py")} == {*_ORDER, *_TOP}


@pytest.mark.parametrize("path", sorted(_ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(_ROOT)))
def test_imports_point_to_lower_packages(path: Path) -> None:
    entry = _entry(path)
    allowed = {*_ORDER} if entry in _TOP else {*_ORDER[: _ORDER.index(entry) + 1]}
    assert _imports(path) <= allowed


def test_the_process_imports_neither_torch_nor_another_client() -> None:
    code = "import sys, gllm_operator.process.operator_process, gllm_operator.uninstall; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "kubernetes", "lightkube", "kr8s", "httpx"} & set(done.stdout.split())

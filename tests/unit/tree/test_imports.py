"""The import graph of the runtime and the operator, read from the source without importing it."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def modules(package: Path) -> dict[str, Path]:
    """Map dotted names to files."""
    files = {".".join(file.relative_to(package.parent).with_suffix("").parts): file for file in package.rglob("*.py")}
    return {name.removesuffix(".__init__"): file for name, file in files.items()}


def imports(package: Path) -> dict[str, set[str]]:
    """Map each module to the modules of the same package that it imports, for types too."""
    known = modules(package)
    graph: dict[str, set[str]] = {}
    for name, file in known.items():
        named: set[str] = set()
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                named |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                inner = {f"{node.module}.{alias.name}" for alias in node.names}
                named |= {one if one in known else node.module for one in inner}
        graph[name] = {one for one in named if one in known} - {name}
    return graph


def cycle_of(graph: dict[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        cycle: list[str] = error.args[1]
        return cycle
    return []


def test_a_cycle_is_found() -> None:
    assert cycle_of({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert cycle_of({"a": {"b"}, "b": {"c"}}) == []


@pytest.mark.parametrize("package", ["runtime/gllm", "operator/gllm_operator", "kernels/gllm_kernels"])
def test_no_module_imports_itself_through_others(package: str) -> None:
    graph = imports(ROOT / package)
    assert len(graph) > 5
    assert not cycle_of(graph)


def package_of(module: str) -> str:
    """Return the entry of the package that a module belongs to. The model config is plain data that layers read."""
    return module if module == "gllm.models.config" else ".".join(module.split(".")[:2])


@pytest.mark.parametrize("package", ["runtime/gllm", "operator/gllm_operator"])
def test_no_package_imports_itself_through_others(package: str) -> None:
    graph: dict[str, set[str]] = {}
    for module, imported in imports(ROOT / package).items():
        if "." in module:
            own = package_of(module)
            others = {package_of(one) for one in imported if "." in one}
            graph[own] = graph.get(own, set()) | (others - {own})
    assert len(graph) > 10
    assert not cycle_of(graph)

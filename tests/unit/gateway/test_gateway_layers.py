"""The gateway's modules import from their own layer and from lower ones, without cycles."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import gllm

LAYERS = ("protocol", "shared", "request", "api", "http", "routes", "http_process", "__main__")
"""From the bottom to the top, as in the docstring of gllm.gateway."""

RUNTIME = Path(gllm.__file__).parent


def modules(folder: Path) -> dict[str, Path]:
    """Return the modules below a folder: their dotted names, which begin with `gllm`, and their files."""
    found = {}
    for path in folder.rglob("*.py"):
        parts = ("gllm", *path.relative_to(RUNTIME).with_suffix("").parts)
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


GATEWAY = modules(RUNTIME / "gateway")


def imported(tree: ast.AST, known: dict[str, Path]) -> Iterator[str]:
    """Yield the modules of `known` that a file imports, also in functions and for type checking."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                if whole in known:
                    yield whole
                elif node.module in known:
                    yield node.module


def graph() -> dict[str, set[str]]:
    return {name: set(imported(ast.parse(path.read_text()), GATEWAY)) for name, path in GATEWAY.items()}


def layer(name: str) -> int:
    """Raises ValueError for a module outside of all layers."""
    return LAYERS.index(name.split(".")[2])


def test_no_module_imports_from_a_higher_layer() -> None:
    edges = [(user, used) for user, names in graph().items() for used in names if used != "gllm.gateway"]
    assert len(edges) > 100
    assert [(user, used) for user, used in edges if layer(used) > layer(user)] == []


def test_modules_have_no_import_cycle() -> None:
    try:
        TopologicalSorter(graph()).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_packages_have_no_import_cycle() -> None:
    """Packages within a layer too: `api/messages` and `api/responses` do not import each other."""
    packages = {name.rpartition(".")[0] for name in GATEWAY}
    edges: dict[str, set[str]] = {package: set() for package in packages}
    for user, names in graph().items():
        mine = user if user in packages else user.rpartition(".")[0]
        theirs = {name if name in packages else name.rpartition(".")[0] for name in names}
        edges[mine] |= theirs - {mine}
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_the_docstring_lists_every_layer() -> None:
    described = GATEWAY["gllm.gateway"].read_text()
    assert [name for name in LAYERS if f"`{name}`" not in described and f"`{name}/`" not in described] == []


def test_other_packages_import_the_protocol_only() -> None:
    others = {name: path for name, path in modules(RUNTIME).items() if name not in GATEWAY}
    used = {name for path in others.values() for name in imported(ast.parse(path.read_text()), GATEWAY)}
    assert [name for name in used if not name.startswith("gllm.gateway.protocol")] == []


@pytest.mark.parametrize(
    "text",
    [
        "from gllm.gateway.routes.app import create_app",
        "from gllm.gateway.routes import app",
        "import gllm.gateway.routes.app",
        "if TYPE_CHECKING:\n    from gllm.gateway.routes.app import create_app",
        "def late():\n    import gllm.gateway.routes.app",
    ],
)
def test_every_form_of_import_is_seen(text: str) -> None:
    assert list(imported(ast.parse(text), GATEWAY)) == ["gllm.gateway.routes.app"]

"""The docs name what exists: the map of the source tree, links between pages, files and make targets."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("tests/*.md")])


@pytest.mark.parametrize("package", ["runtime/gllm", "operator/gllm_operator"])
def test_architecture_maps_every_entry_of_a_package(package: str) -> None:
    section = (ROOT / "docs/architecture.md").read_text().partition(f"### {package}\n")[2].partition("\n#")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    mapped = [entry.rstrip("/") for row in rows for entry in re.findall(r"`([^`]+)`", row)]
    found = {
        entry.name
        for entry in (ROOT / package).iterdir()
        if (entry.suffix == ".py" and not entry.name.startswith("__")) or any(entry.glob("*.py"))
    }
    assert sorted(mapped) == sorted(found)


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page: Path) -> None:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        target, _, anchor = link.partition("#")
        if "://" in target:
            continue
        file = (page.parent / target).resolve() if target else page
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in anchors(file)):
            broken.append(link)
    assert not broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_paths_in_code_style_exist(page: Path) -> None:
    """`runtime/gllm/...`, `tests/...` and so on; paths inside a package may start at the package."""
    text = page.read_text()
    folders = "runtime|operator|kernels|tests|docs|benchmarks|examples|charts|crds|docker"
    missing = [
        path
        for path in re.findall(rf"`(?:python3? )?((?:{folders})/[\w./-]+)", text)
        if "NAME" not in path and not (ROOT / path).exists() and not any(ROOT.glob(f"{path}*"))
    ]
    assert not missing


def test_make_targets_of_the_docs_exist() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        target for page in PAGES for target in re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(), re.MULTILINE)
    }
    assert named
    assert named <= targets


def test_classes_of_the_glossary_exist() -> None:
    named = set(re.findall(r"`([A-Z][a-z]+[A-Z]\w+)`", (ROOT / "docs/glossary.md").read_text()))
    sources = [*ROOT.glob("runtime/**/*.py"), *ROOT.glob("operator/**/*.py")]
    defined = {name for file in sources for name in re.findall(r"^class (\w+)", file.read_text(), re.MULTILINE)}
    assert len(named) > 5
    assert named <= defined

"""The web page's files: who gets them, with which headers, and that the page loads nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import resources

import httpx
import pytest
from gateway_fakes import RunningServer, make_server

BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
FILES = {entry.name: entry.read_text() for entry in resources.files("gllm.ui").joinpath("static").iterdir()}


@pytest.fixture(scope="module")
def locked() -> Iterator[RunningServer]:
    with make_server(api_key="s3cret") as server:
        yield server


def test_a_browser_gets_the_page_without_a_key_and_other_clients_get_json_with_it(locked: RunningServer) -> None:
    page = httpx.get(locked.url, headers=BROWSER)
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert httpx.get(locked.url).status_code == 401
    assert httpx.get(locked.url, headers={"Authorization": "Bearer s3cret"}).json()["name"] == "gLLM"


def test_every_file_that_the_page_names_is_served_without_a_key(locked: RunningServer) -> None:
    named = set(re.findall(r'(?:src|href)="(ui/[^"]+)"', FILES["index.html"]))
    for name, text in FILES.items():
        if name.endswith(".js"):
            named |= {f"ui/{one}" for one in re.findall(r'from "\./([^"]+)"', text)}
    assert named == {f"ui/{name}" for name in FILES} - {"ui/index.html"}
    for path in named:
        answer = httpx.get(f"{locked.url}/{path}")
        assert answer.status_code == 200, path
        assert "'none'" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert httpx.get(f"{locked.url}/ui/../config.py").status_code == 401
    assert httpx.get(f"{locked.url}/ui/").status_code == 401
    assert httpx.post(f"{locked.url}/ui/main.js").status_code == 401


def test_the_policy_allows_own_files_only_and_no_inline_code(locked: RunningServer) -> None:
    policy = dict(
        part.strip().split(" ", 1)
        for part in httpx.get(locked.url, headers=BROWSER).headers["content-security-policy"].split(";")
    )
    assert policy.pop("require-trusted-types-for") == "'script'"
    assert policy["default-src"] == "'none'"
    assert set(policy.values()) == {"'none'", "'self'"}


def test_the_files_have_nothing_inline_and_name_no_other_server() -> None:
    page = FILES["index.html"]
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=", page)
    for name, text in FILES.items():
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text), (
            name
        )
        assert not re.search(r"""["'(]https?://(?!www\.w3\.org)""", text), name
        assert "localStorage" not in text, name
        assert len(text.splitlines()) <= 300, name


def test_an_unchanged_file_is_not_sent_again(locked: RunningServer) -> None:
    first = httpx.get(f"{locked.url}/ui/main.js")
    again = httpx.get(f"{locked.url}/ui/main.js", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    head = httpx.head(f"{locked.url}/ui/main.js")
    assert head.headers["content-length"] == str(len(first.content))


def test_without_the_page_a_browser_gets_what_others_get() -> None:
    with make_server(ui=False) as server:
        assert httpx.get(server.url, headers=BROWSER).json()["name"] == "gLLM"
        assert httpx.get(f"{server.url}/ui/main.js").status_code == 404

"""`gllm fetch`: a model from a Hugging Face hub into a folder, for pods whose model source is hf://."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Annotated, TypeVar

import httpx
import typer

from gllm.cli.parsing import Command

Result = TypeVar("Result")

SourceArgument = Annotated[str, typer.Argument(metavar="SOURCE", help="hf://ORGANIZATION/NAME.")]
FolderArgument = Annotated[str, typer.Argument(metavar="FOLDER", help="Where to put it; kept if it is complete.")]
RevisionOption = Annotated[str, typer.Option("--revision", help="Branch, tag or commit.")]

_WANTED = (".json", ".safetensors", ".model", ".jinja", ".txt", ".tiktoken")
_UNWANTED = ("original/", "onnx/", "openvino/")
_ATTEMPTS = 8


def fetch(source: SourceArgument, folder: FolderArgument, *, revision: RevisionOption = "main") -> None:
    """Download a model: config, tokenizer and safetensors.

    The folder appears whole or not at all; a download that was cut off goes on where it was. HF_ENDPOINT names another
    hub, HF_TOKEN is the access token.
    """
    if not source.startswith("hf://"):
        raise typer.BadParameter(f"{source!r} is not hf://ORGANIZATION/NAME", param_hint="SOURCE")
    try:
        download(source.removeprefix("hf://"), revision, Path(folder), typer.echo)
    except (OSError, ValueError) as error:
        typer.echo(f"gllm: error: {error}", err=True)
        raise typer.Exit(1) from None


def download(repository: str, revision: str, folder: Path, tell: Callable[[str], None]) -> None:
    """Raises ValueError or OSError, in one line."""
    if folder.is_dir():
        tell(f"{folder} is there already")
        return
    # A part of this pod only: others may be downloading into the same cache.
    part = folder.with_name(f"{folder.name}.part-{socket.gethostname()}")
    part.mkdir(parents=True, exist_ok=True)
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    token = os.environ.get("HF_TOKEN", "")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    with httpx.Client(base_url=endpoint, headers=headers, timeout=60.0, follow_redirects=True) as client:
        answer = _try(lambda: _checked(client.get(f"/api/models/{repository}/revision/{revision}")), tell)
        files = [str(one["rfilename"]) for one in answer.json().get("siblings", [])]
        wanted = [name for name in files if is_wanted(name)]
        if "config.json" not in wanted:
            raise ValueError(f"{repository} has no config.json at {revision}: is it a model in safetensors?")
        for name in wanted:
            tell(f"fetching {name}")
            path = part / name
            path.parent.mkdir(parents=True, exist_ok=True)
            _try(partial(_file, client, f"/{repository}/resolve/{revision}/{name}", path), tell)
    try:
        part.rename(folder)
    except OSError:
        if not folder.is_dir():  # Else another pod was faster.
            raise
    tell(f"{folder} is complete")


def is_wanted(name: str) -> bool:
    path = PurePosixPath(name)
    inside = not path.is_absolute() and ".." not in path.parts
    return inside and path.suffix in _WANTED and not name.startswith(_UNWANTED)


def _file(client: httpx.Client, url: str, path: Path) -> None:
    """Appends to what is there. A whole file has its own name; one that is not has .incomplete behind it."""
    if path.exists():
        return
    begun = path.with_name(path.name + ".incomplete")
    have = begun.stat().st_size if begun.exists() else 0
    with client.stream("GET", url, headers={"Range": f"bytes={have}-"} if have else {}) as answer:
        if answer.status_code != 416:  # 416: it was whole already.
            _checked(answer)
            with begun.open("ab" if answer.status_code == 206 else "wb") as file:
                for chunk in answer.iter_bytes(2**20):
                    file.write(chunk)
    begun.rename(path)


def _checked(answer: httpx.Response) -> httpx.Response:
    if answer.status_code in (401, 403):
        raise ValueError(f"{answer.url} needs a token that may read it: set HF_TOKEN")
    if answer.status_code == 404:
        raise ValueError(f"there is no {answer.url}")
    return answer.raise_for_status()


def _try(deed: Callable[[], Result], tell: Callable[[str], None]) -> Result:
    """Networks fail for a while; what is refused is refused."""
    for attempt in range(_ATTEMPTS):
        try:
            return deed()
        except httpx.HTTPError as error:
            if attempt == _ATTEMPTS - 1:
                raise OSError(f"{type(error).__name__}: {error}") from None
            tell(f"{type(error).__name__}: {error}; trying again")
            time.sleep(min(2.0**attempt, 30.0))
    raise AssertionError


def register(parent: typer.Typer) -> None:
    """Add the command to `gllm`."""
    parent.command("fetch", cls=Command)(fetch)

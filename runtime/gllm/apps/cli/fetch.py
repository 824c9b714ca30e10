"""`gllm fetch`: download a model into the Hugging Face cache or a folder. Pods whose source is hf:// run it too."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gllm.apps.cli.flag import takes_flags
from gllm.apps.cli.options import SOURCE_FLAGS
from gllm.apps.cli.parsing import Command
from gllm.config import ModelSource
from gllm.hub.download import download, download_to
from gllm.hub.name import parse_hub_name

SourceArgument = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="ORGANIZATION/NAME, also as hf://ORGANIZATION/NAME; with @REVISION, or with :Q4_K_M or :FILE.gguf for one "
        "of its GGUF files.",
    ),
]
FolderArgument = Annotated[
    str,
    typer.Argument(metavar="FOLDER", help="A new folder; one that exists is kept.  [default: the cache]"),
]


@takes_flags(*SOURCE_FLAGS)
def fetch(source: SourceArgument, folder: FolderArgument = "", *, flags: dict[str, str]) -> None:
    """Download a model: config, tokenizer and the weights once, as safetensors or GGUF.

    Prints the path. The cache gets the newest commit of the revision; a folder appears when it is complete.
    HF_TOKEN, HF_ENDPOINT, HF_HOME and the other variables of huggingface_hub apply.
    """
    where = ModelSource(**flags)

    def report(line: str) -> None:
        typer.echo(f"gllm: {line}", err=True)

    try:
        name = parse_hub_name(source, where.revision)
        if name is None:
            raise typer.BadParameter(f"{source!r} is not ORGANIZATION/NAME", param_hint="SOURCE")
        if not folder:
            typer.echo(download(name, cache=where.download_dir, report=report))
            return
        download_to(name, Path(folder), report=report)
    except (OSError, ValueError) as error:
        typer.echo(f"gllm: error: {error}", err=True)
        raise typer.Exit(1) from None
    typer.echo(folder)


def register(parent: typer.Typer) -> None:
    """Add the command to `gllm`."""
    parent.command("fetch", cls=Command)(fetch)

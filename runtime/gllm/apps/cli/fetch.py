"""`gllm fetch`: a model from a Hugging Face hub into its cache, or into a folder, as pods do whose source is hf://."""

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
    str, typer.Argument(metavar="FOLDER", help="Where to put it; kept if it is there.  [default: the cache]")
]


@takes_flags(*SOURCE_FLAGS)
def fetch(source: SourceArgument, folder: FolderArgument = "", *, flags: dict[str, str]) -> None:
    """Download a model: config, tokenizer and the weights once, as safetensors or GGUF.

    Prints the path. The cache gets the newest commit of the revision; a folder appears whole or not at all.
    HF_TOKEN, HF_ENDPOINT, HF_HOME and the other variables of huggingface_hub count.
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

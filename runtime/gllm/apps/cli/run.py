"""`gllm run`: a manifest without a cluster."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from gllm.apps.cli.parsing import Command

FileOption = Annotated[str, typer.Option("--filename", "-f", metavar="FILE", help="A manifest with an LLMDeployment.")]
MountOption = Annotated[
    list[str],
    typer.Option("--mount", metavar="PATH=HERE", help="Where a path of the container is on this machine; repeatable."),
]


def run(filename: FileOption, *, mount: MountOption = []) -> None:  # noqa: B006  (typer wants a list, and copies it)
    """Run the pods of a manifest as processes of this machine.

    Arguments and environment are those that the operator would render; nodes are addresses of the loopback. Ctrl-C
    finishes the requests at hand, a second one does not.
    """
    try:
        from gllm_operator.local.run import run as run_manifest
    except ImportError as error:
        raise typer.BadParameter(f"the operator is not installed ({error}): pip install 'gllm[operator]'") from None
    mounts = {}
    for text in mount:
        inside, equals, here = text.partition("=")
        if not (inside and equals and here):
            raise typer.BadParameter(f"{text!r} is not PATH=HERE", param_hint="--mount")
        mounts[inside] = here
    try:
        raise typer.Exit(run_manifest(filename, mounts, sys.stdout))
    except ValueError as error:
        typer.echo(f"gllm: error: {error}", err=True)
        raise typer.Exit(1) from None


def register(parent: typer.Typer) -> None:
    """Add the command to `gllm`."""
    parent.command("run", cls=Command)(run)

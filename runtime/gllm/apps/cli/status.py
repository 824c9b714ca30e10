"""`gllm status`: an LLMDeployment of a cluster. It needs the operator's package."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from gllm.apps.cli.manifest import refuse_without_operator
from gllm.apps.cli.parsing import Command


def status(
    target: Annotated[str, typer.Argument(metavar="llm/NAME", help="The LLMDeployment; NAME alone works too.")],
    *,
    namespace: Annotated[
        str, typer.Option("--namespace", "-n", help="Its namespace.  [default: the kubeconfig's]")
    ] = "",
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Show changes until it is deleted, or Ctrl-C.")] = False,
) -> None:
    """Show the conditions and the groups of an LLMDeployment, from the cluster of the kubeconfig (KUBECONFIG).

    On a terminal --watch keeps two tables current; elsewhere it prints a line for each change.
    """
    try:
        from gllm_operator.show.status import show
    except ImportError as error:
        refuse_without_operator(error)
    try:
        raise typer.Exit(show(target, namespace, watch, sys.stdout))
    except ValueError as error:
        typer.echo(f"gllm: error: {error}", err=True)
        raise typer.Exit(1) from None


def register(parent: typer.Typer) -> None:
    """Add the command to `gllm`."""
    parent.command("status", cls=Command)(status)

"""`gllm keys`: the keys of a process group of several nodes."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from gllm.apps.cli.parsing import Command

OutputOption = Annotated[
    str,
    typer.Option("--output", "-o", metavar="FILE", show_default=False, help="A new file for its owner only."),
]


def keys(output: OutputOption = "") -> None:
    """Make the keys with which the nodes of a process group authenticate.

    Give every node the same keys: --keys-file FILE, or the text in GLLM_KEYS. A node that has them can join.
    """
    from gllm.wire.curve import make_keys

    text = f"# Keys of a gLLM group: secret, the same on every node.\n{make_keys().text()}\n"
    if not output:
        typer.echo(text, nl=False)
        return
    try:
        # A file that exists is kept: nodes that use its keys would be locked out.
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise typer.BadParameter(f"{output}: {error.strerror}", param_hint="--output") from None
    with os.fdopen(descriptor, "w") as file:
        file.write(text)


def register(parent: typer.Typer) -> None:
    """Add the command to `gllm`."""
    parent.command("keys", cls=Command)(keys)

"""`gllm keys`: the keys of a group whose nodes talk over a network."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from gllm.apps.cli.parsing import Command

OutputOption = Annotated[
    str, typer.Option("--output", "-o", metavar="FILE", show_default=False, help="A new file, for its owner only.")
]


def keys(output: OutputOption = "") -> None:
    """Make the keys that the nodes of a group prove themselves with.

    Give every node the same: --keys-file FILE, or the text in GLLM_KEYS. Whoever has them can join the group.
    """
    from gllm.wire.curve import make_keys

    text = f"# Keys of a gLLM group: secret, the same on every node.\n{make_keys().text()}\n"
    if not output:
        typer.echo(text, nl=False)
        return
    try:
        # Never in place of others: nodes that have those would be locked out.
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise typer.BadParameter(f"{output}: {error.strerror}", param_hint="--output") from None
    with os.fdopen(descriptor, "w") as file:
        file.write(text)


def register(parent: typer.Typer) -> None:
    """Add the command to `gllm`."""
    parent.command("keys", cls=Command)(keys)

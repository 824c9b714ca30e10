"""The `gllm` command. The module of a subcommand is imported when the subcommand runs."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from typing import Annotated, Any

import typer
import typer.core
import typer.main

from gllm import __version__

_SUBCOMMANDS = {
    "serve": ("gllm.apps.cli.serve", "Serve a model over HTTP with the OpenAI API."),
    "gateway": ("gllm.apps.cli.gateway", "Serve a model over HTTP with engines of other machines."),
    "chat": ("gllm.apps.cli.chat", "Talk to a model in the terminal, loaded here or behind a URL."),
    "generate": ("gllm.apps.cli.generate", "Answer a file of prompts offline, JSONL in and out."),
    "simulate": ("gllm.apps.cli.simulate", "Run the scheduler on a simulated pipeline and compare policies."),
    "bench": ("gllm.apps.cli.bench", "Measure an OpenAI server, or the engine alone."),
    "eval": ("gllm.apps.cli.eval", "Measure the quality of a server's answers."),
    "top": ("gllm.apps.cli.top", "Show what servers do: requests, stages, latencies, live."),
    "keys": ("gllm.apps.cli.keys", "Make the keys of a group of several nodes."),
    "fetch": ("gllm.apps.cli.fetch", "Download a model from a Hugging Face hub into its cache or a folder."),
    "render": ("gllm.apps.cli.manifest", "Print the Kubernetes objects that the operator makes of a manifest."),
    "status": ("gllm.apps.cli.status", "Show an LLMDeployment of a cluster: its conditions and groups."),
    "run": ("gllm.apps.cli.manifest", "Run the pods of a manifest as processes of this machine."),
}
"""Name to (module, line in `gllm --help`); the module has `register(parent: typer.Typer)`."""


class _LazyGroup(typer.core.TyperGroup):
    """Has the names and one-line helps of all subcommands; imports only the module of the invoked subcommand."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for name, (_, help) in _SUBCOMMANDS.items():
            self.add_command(typer.core.TyperCommand(name, help=help))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] in _SUBCOMMANDS:
            self.add_command(_load(args[0]))
        return super().resolve_command(ctx, args)


def _load(name: str) -> Any:
    parent = typer.Typer()
    # Without a callback typer would make a lone subcommand the whole program.
    parent.callback()(lambda: None)
    importlib.import_module(_SUBCOMMANDS[name][0]).register(parent)
    group = typer.main.get_command(parent)
    assert isinstance(group, typer.core.TyperGroup)
    return group.commands[name]


app = typer.Typer(
    cls=_LazyGroup,
    help="Serve language models over a balanced pipeline.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"gllm {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    pass


def main() -> None:
    if os.getpid() == 1:
        # The first process of a container ignores SIGTERM until it has a handler. A blocked one waits for the handler,
        # also across `exec`, so that a pod that is deleted while it starts ends at once.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()

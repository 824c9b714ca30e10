"""`gllm bench`: measure an OpenAI server, or the engine alone."""

from __future__ import annotations

import typer

from gllm.apps.cli.bench.compare import compare
from gllm.apps.cli.bench.prefix import prefix
from gllm.apps.cli.bench.serve import EPILOG, serve
from gllm.apps.cli.bench.sweep import sweep
from gllm.apps.cli.bench.throughput import throughput
from gllm.apps.cli.parsing import Command, EngineCommand


def register(parent: typer.Typer) -> None:
    """Add `bench` to the `gllm` command."""
    app = typer.Typer(no_args_is_help=True, help="Measure an OpenAI server, or the engine alone.")
    app.command(cls=Command, epilog=EPILOG)(serve)
    app.command(cls=Command)(sweep)
    app.command(cls=Command)(compare)
    app.command(cls=EngineCommand)(throughput)
    app.command(cls=EngineCommand)(prefix)
    parent.add_typer(app, name="bench")

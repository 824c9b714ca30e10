"""`gllm eval`: the quality of a server's answers."""

from __future__ import annotations

import typer

from gllm.apps.cli.eval.agreement import agreement
from gllm.apps.cli.eval.benchmarks import EPILOG, gsm8k, ifeval, mmlu_pro
from gllm.apps.cli.parsing import Command


def register(parent: typer.Typer) -> None:
    """Add `eval` to the `gllm` command."""
    app = typer.Typer(no_args_is_help=True, help="Measure the quality of a server's answers.")
    app.command("mmlu-pro", cls=Command, epilog=EPILOG)(mmlu_pro)
    app.command(cls=Command, epilog=EPILOG)(gsm8k)
    app.command(cls=Command, epilog=EPILOG)(ifeval)
    app.command(cls=Command)(agreement)
    parent.add_typer(app, name="eval")

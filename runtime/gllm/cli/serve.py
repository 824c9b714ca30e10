"""`gllm serve`: one model behind the OpenAI API."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from gllm.cli.options import ENGINE_FLAGS, GATEWAY_FLAGS, LogLevelOption, ModelArgument, make_config, takes_flags

FailureOption = Annotated[
    Literal["restart", "exit"],
    typer.Option(
        "--on-failure",
        help="When the engine or a worker dies: start them again, or exit with status 1.",
        rich_help_panel="Process",
    ),
]


@takes_flags(*ENGINE_FLAGS, *GATEWAY_FLAGS)
def serve(
    model: ModelArgument = "",
    *,
    on_failure: FailureOption = "restart",
    log_level: LogLevelOption = "warning",
    flags: dict[str, Any],
) -> None:
    """Serve a model over HTTP with the OpenAI API.

    Ctrl-C stops at once. SIGTERM finishes the requests at hand first.
    """
    config = make_config(model, flags, log_level=log_level)

    import asyncio

    from gllm.logs import setup_logging
    from gllm.supervisor.group import RestartPolicy
    from gllm.supervisor.serve import Server

    setup_logging(config, "supervisor")
    raise typer.Exit(asyncio.run(Server(config, restart=RestartPolicy(enabled=on_failure == "restart")).run()))


def register(parent: typer.Typer) -> None:
    """Add the command to `gllm`."""
    parent.command("serve")(serve)

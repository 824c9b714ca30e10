"""`gllm serve`: one model behind the OpenAI API, on one node or several."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from gllm.apps.cli.configure import make_config
from gllm.apps.cli.flag import takes_flags
from gllm.apps.cli.nodes import NODES_FLAGS, with_nodes
from gllm.apps.cli.options import ENGINE_FLAGS, GATEWAY_FLAGS, SOURCE_FLAGS, LogLevelOption, ModelArgument
from gllm.apps.cli.parsing import EngineCommand

if TYPE_CHECKING:
    from gllm.config import Config
    from gllm.supervisor.restart import RestartConfig

FailureOption = Annotated[
    Literal["restart", "exit"],
    typer.Option(
        "--on-failure",
        help="When the engine or a worker dies: start them again and go on, or exit with status 1.",
        rich_help_panel="Process",
    ),
]
RecoveryOption = Annotated[
    float,
    typer.Option(
        "--recovery-timeout",
        help="Seconds within which the engine, its workers and lost nodes must be back; requests wait, then fail.",
        rich_help_panel="Process",
        min=1,
        envvar="GLLM_RECOVERY_TIMEOUT",
        show_envvar=False,
    ),
]
KeysOption = Annotated[
    str,
    typer.Option(
        "--keys-file",
        help="File made by `gllm keys`, the same on every node; several nodes need it, or its text in GLLM_KEYS.",
        rich_help_panel="Nodes",
        envvar="GLLM_KEYS_FILE",
        show_envvar=False,
        show_default=False,
    ),
]


@takes_flags(*SOURCE_FLAGS, *ENGINE_FLAGS, *GATEWAY_FLAGS, *NODES_FLAGS)
def serve(
    model: ModelArgument = "",
    *,
    on_failure: FailureOption = "restart",
    recovery_timeout: RecoveryOption = 120.0,
    keys_file: KeysOption = "",
    log_level: LogLevelOption = "warning",
    flags: dict[str, Any],
) -> None:
    """Serve a model over HTTP with the OpenAI API.

    Ctrl-C stops at once. SIGTERM finishes the running requests first.
    """
    nodes_flags = {flag.name: flags.pop(flag.name) for flag in NODES_FLAGS}
    config = with_nodes(make_config(model, flags, log_level=log_level), nodes_flags)

    from gllm.logs import setup_logging
    from gllm.supervisor.restart import RestartConfig
    from gllm.supervisor.stacks import show_stacks_on_signal

    setup_logging(config, "supervisor")
    show_stacks_on_signal()
    restart = RestartConfig(enabled=on_failure == "restart", recovery_timeout=recovery_timeout)
    raise typer.Exit(_run(config, restart, keys_file))


def _run(config: Config, restart: RestartConfig, keys_file: str) -> int:
    import asyncio

    from gllm.supervisor.supervisor import Supervisor

    nodes = config.nodes
    if nodes.nnodes == 1 and not nodes.engine_port:
        return asyncio.run(Supervisor(config, restart=restart).run())

    from gllm.checkpoint.model_digest import digest_model
    from gllm.supervisor.nodes.master import Master
    from gllm.supervisor.nodes.slave import Slave
    from gllm.wire.curve import read_keys

    try:
        keys = read_keys(keys_file)
        if nodes.nnodes == 1:
            return asyncio.run(Supervisor(config, restart=restart, keys=keys).run())
        model = digest_model(config.engine.model, weights=config.engine.load_format != "dummy")
    except ValueError as error:
        typer.echo(f"gllm: error: {error}", err=True)
        return 1

    async def run() -> int:
        if nodes.launch_mode == "slave":
            return await Slave(config, keys, model).run()
        return await Supervisor(config, restart=restart, nodes=Master(keys, model)).run()

    return asyncio.run(run())


def register(parent: typer.Typer) -> None:
    """Add the command to `gllm`."""
    parent.command("serve", cls=EngineCommand)(serve)

"""`gllm gateway`: the HTTP server of `gllm serve` in front of engines on other machines."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer

from gllm.apps.cli.configure import make_config
from gllm.apps.cli.flag import takes_flags
from gllm.apps.cli.flag_values import parse_places
from gllm.apps.cli.options import GATEWAY_FLAGS, SOURCE_FLAGS, LogLevelOption, ModelArgument
from gllm.apps.cli.parsing import EngineCommand
from gllm.apps.cli.serve import KeysOption

EnginesOption = Annotated[
    str,
    typer.Option(
        "--engines",
        metavar="HOST:PORT,...",
        help="Engines of `gllm serve --engine-port PORT`, all with this model. A name with several addresses means an "
        "engine at each; names are resolved again every 2 s.",
        rich_help_panel="Engines",
        envvar="GLLM_ENGINES",
        show_envvar=False,
    ),
]
TimeoutOption = Annotated[
    float,
    typer.Option(
        "--engine-timeout",
        help="Seconds that requests wait while no engine serves; then they fail.",
        rich_help_panel="Engines",
        min=0,
    ),
]
WaitOption = Annotated[
    bool,
    typer.Option(
        "--wait-for-engine",
        help="Let requests wait for the first engine too, for engines that start on demand. Without it they are "
        "refused until an engine has served.",
        rich_help_panel="Engines",
    ),
]


@takes_flags(*SOURCE_FLAGS, *GATEWAY_FLAGS)
def gateway(
    model: ModelArgument = "",
    *,
    engines: EnginesOption,
    engine_timeout: TimeoutOption = 120.0,
    wait_for_engine: WaitOption = False,
    keys_file: KeysOption = "",
    log_level: LogLevelOption = "warning",
    flags: dict[str, Any],
) -> None:
    """Serve a model over HTTP with engines that run elsewhere.

    MODEL is the folder or file that the engines serve; its weights are not read. Each request goes to one engine. When
    that is lost, another one continues the request. SIGTERM finishes the running requests first.
    """
    import msgspec

    places = parse_places(engines)
    if not places:
        raise typer.BadParameter("name at least one engine, such as 10.0.0.7:29600", param_hint="--engines")
    config = make_config(model, flags, log_level=log_level, weights=False)
    settings = msgspec.structs.replace(
        config.gateway, engines=places, engine_timeout=engine_timeout, wait_for_engine=wait_for_engine
    )
    config = msgspec.structs.replace(config, gateway=settings)

    from gllm.wire.curve import KEYS_VARIABLE, read_keys

    try:
        keys = read_keys(keys_file)
    except ValueError as error:
        typer.echo(f"gllm: error: {error}", err=True)
        raise typer.Exit(1) from None
    # The same program as in a process group, without a supervisor: there is nothing that it could restart.
    environment = {**os.environ, **config.to_environment(), KEYS_VARIABLE: keys.text()}
    os.execve(sys.executable, [sys.executable, "-P", "-m", "gllm.gateway"], environment)


def register(parent: typer.Typer) -> None:
    """Add the command to `gllm`."""
    parent.command("gateway", cls=EngineCommand)(gateway)

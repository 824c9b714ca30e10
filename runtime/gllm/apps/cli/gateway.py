"""`gllm gateway`: the HTTP server of `gllm serve` in front of engines on other machines, of one model or several."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer

from gllm.apps.cli.also import parse_also
from gllm.apps.cli.configure import make_config
from gllm.apps.cli.flag import takes_flags
from gllm.apps.cli.flag_values import parse_places
from gllm.apps.cli.options import GATEWAY_FLAGS, SOURCE_FLAGS, LogLevelOption, ModelArgument
from gllm.apps.cli.parsing import EngineCommand
from gllm.apps.cli.serve import KeysOption
from gllm.config import Config, LogLevel, Routing

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


RoutingOption = Annotated[
    Routing,
    typer.Option(
        "--routing",
        help="How to choose the engine of a request: prefix (most of the prompt cached, then the shortest predicted "
        "wait, within a bounded imbalance) or round-robin.",
        rich_help_panel="Engines",
    ),
]
AlsoOption = Annotated[
    list[str],
    typer.Option(
        "--also",
        metavar="'MODEL FLAGS'",
        help="A further model behind this gateway, in one string: MODEL, --engines and what else is its own (names, "
        "template, parsers, bounds of its queue, --engine-timeout, --keys-file). Requests choose by their field model. "
        "Can be given several times.",
        rich_help_panel="Engines",
        show_default=False,
    ),
]


@takes_flags(*SOURCE_FLAGS, *GATEWAY_FLAGS)
def gateway(
    context: typer.Context,
    model: ModelArgument = "",
    *,
    engines: EnginesOption,
    engine_timeout: TimeoutOption = 120.0,
    wait_for_engine: WaitOption = False,
    routing: RoutingOption = "prefix",
    also: AlsoOption = [],  # noqa: B006  # typer wants a list
    keys_file: KeysOption = "",
    log_level: LogLevelOption = "warning",
    flags: dict[str, Any],
) -> None:
    """Serve a model over HTTP with engines that run elsewhere.

    MODEL is the folder or file that the engines serve; its weights are not read. Each request goes to one engine. When
    that is lost, another one continues the request. SIGTERM finishes the running requests first.
    """
    import msgspec

    own = {"engines": engines, "engine_timeout": engine_timeout, "wait_for_engine": wait_for_engine, "routing": routing}
    config = _config(model, own, flags, log_level)
    config = msgspec.structs.replace(config, others=tuple(_other(context, text, log_level) for text in also))
    _check_names(config)

    from gllm.wire.curve import KEYS_VARIABLE, read_keys

    try:
        keys = read_keys(keys_file)
        for other in config.others:
            if other.gateway.keys_file:
                read_keys(other.gateway.keys_file)
    except ValueError as error:
        typer.echo(f"gllm: error: {error}", err=True)
        raise typer.Exit(1) from None
    # The same program as in a process group, without a supervisor: there is nothing that it could restart.
    environment = {**os.environ, **config.to_environment(), KEYS_VARIABLE: keys.text()}
    os.execve(sys.executable, [sys.executable, "-P", "-m", "gllm.gateway"], environment)


def _config(model: str, own: dict[str, Any], flags: dict[str, Any], log_level: LogLevel) -> Config:
    import msgspec

    places = parse_places(own["engines"])
    if not places:
        raise typer.BadParameter("name at least one engine, such as 10.0.0.7:29600", param_hint="--engines")
    config = make_config(model, flags, log_level=log_level, weights=False)
    return msgspec.structs.replace(config, gateway=msgspec.structs.replace(config.gateway, **own | {"engines": places}))


def _other(context: typer.Context, text: str, log_level: LogLevel) -> Config:
    values = parse_also(context, text)
    own = {name: values[name] for name in ("engines", "engine_timeout", "wait_for_engine", "routing", "keys_file")}
    flags = {flag.name: values[flag.name] for flag in SOURCE_FLAGS + GATEWAY_FLAGS}
    try:
        return _config(values["model"], own, flags, log_level)
    except typer.BadParameter as error:
        raise typer.BadParameter(f"{text!r}: {error.message}", param_hint="--also") from None


def _check_names(config: Config) -> None:
    """Requests choose by names, so no two models may share one."""
    known: set[str] = set()
    for one in (config, *config.others):
        for name in (one.gateway.served_model_name, *one.gateway.served_model_aliases):
            if name in known:
                raise typer.BadParameter(
                    f"two models have the name {name!r}: give one of them another --served-model-name",
                    param_hint="--also",
                )
            known.add(name)


def register(parent: typer.Typer) -> None:
    """Add the command to `gllm`."""
    parent.command("gateway", cls=EngineCommand)(gateway)

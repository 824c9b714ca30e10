"""Make the `Config` of a command from the MODEL argument and the values of flags."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import typer

from gllm.apps.cli.options import ENGINE_FLAGS, GATEWAY_FLAGS, SOURCE_FLAGS
from gllm.config import Config, EngineConfig, GatewayConfig, LogLevel, ModelSource


def make_config(model: str, flags: dict[str, Any], *, log_level: LogLevel = "info", weights: bool = True) -> Config:
    """Return the `Config` for a MODEL argument ("": the default model) and the values of flags.

    weights: whether the weights are needed, unless they are dummy ones.

    Raises typer.BadParameter, which names the argument or flag and the fix.
    """
    values: dict[type, dict[str, Any]] = {ModelSource: {}, EngineConfig: {}, GatewayConfig: {}}
    for flag in SOURCE_FLAGS + ENGINE_FLAGS + GATEWAY_FLAGS:
        if flag.name in flags:
            values[flag.owner][flag.name] = flags[flag.name]
    engine = EngineConfig(model="", **values[EngineConfig])
    _check_together(engine)  # first, because finding the model may take a download
    path, name = find_model(
        model, ModelSource(**values[ModelSource]), weights=weights and engine.load_format != "dummy"
    )
    engine = msgspec.structs.replace(engine, model=str(path))
    _check_model(engine)
    values[GatewayConfig]["served_model_name"] = values[GatewayConfig].get("served_model_name") or name
    return Config(engine=engine, gateway=GatewayConfig(**values[GatewayConfig]), log_level=log_level)


def find_model(model: str, source: ModelSource, *, weights: bool) -> tuple[Path, str]:
    """Return (path, served name) of a MODEL argument. Raises typer.BadParameter."""
    from gllm.hub.default_model import DEFAULT_MODEL_NAME, default_model_path
    from gllm.hub.locate import locate

    try:
        if not model:
            return default_model_path(), DEFAULT_MODEL_NAME
        return locate(model, source, weights=weights, report=lambda line: typer.echo(f"gllm: {line}", err=True))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="MODEL") from None


def _check_together(engine: EngineConfig) -> None:
    """Check flags that depend on each other."""
    if engine.min_prefill_tokens > engine.max_prefill_tokens:
        raise typer.BadParameter(
            f"{engine.min_prefill_tokens} is more than --max-prefill-tokens {engine.max_prefill_tokens}",
            param_hint="--min-prefill-tokens",
        )
    if engine.ttft_target and engine.policy != "balanced":
        typer.echo(
            f"gllm: warning: --policy {engine.policy} does not aim at --ttft-target, which is only counted in "
            "gllm:request_targets_met; --policy balanced aims at it",
            err=True,
        )
    if engine.attention_backend == "flashinfer" and engine.device == "cpu":
        raise typer.BadParameter("flashinfer needs --device cuda", param_hint="--attention-backend")
    if engine.attention_backend == "native" and engine.device == "cuda":
        raise typer.BadParameter("native needs --device cpu", param_hint="--attention-backend")


def _check_model(engine: EngineConfig) -> None:
    """Check parallel sizes and context length against the model, before a process is started."""
    if engine.pp * engine.tp * engine.ep == 1 and not engine.assigned_layers and not engine.max_model_len:
        return
    from gllm.models.families import load_model_config
    from gllm.parallel.layout import check_parallelism

    try:
        model = load_model_config(engine.model)
        model.context(engine.max_model_len)
        check_parallelism(model, pp=engine.pp, tp=engine.tp, ep=engine.ep, assigned_layers=engine.assigned_layers)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None

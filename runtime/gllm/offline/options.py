"""Options of `LLM(...)`, checked all at once."""

from __future__ import annotations

import difflib
import logging
from typing import Any

import msgspec

from gllm.config import Config, EngineConfig, GatewayConfig, ModelSource
from gllm.hub.locate import locate

_log = logging.getLogger(__name__)


def make_config(
    model: str,
    source: ModelSource,
    engine_options: dict[str, Any],
    gateway_options: dict[str, Any],
    log_level: str,
) -> Config:
    """Check names and types of all options at once, and say what to write instead."""
    known = EngineConfig.__struct_fields__
    for name in engine_options:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"options are {', '.join(known)}"
            raise TypeError(f"LLM has no option {name!r}: {hint}")
    try:
        engine = msgspec.convert({"model": str(model), **engine_options}, EngineConfig)
        gateway = msgspec.convert(gateway_options, GatewayConfig)
        config = msgspec.convert(
            {"engine": engine, "gateway": gateway, "log_level": log_level}, Config, from_attributes=True
        )
    except msgspec.ValidationError as error:
        raise ValueError(f"wrong option: {error}") from None
    # Last: it may take long.
    path, _ = locate(str(model), source, weights=engine.load_format != "dummy", tell=_log.info)
    return msgspec.structs.replace(config, engine=msgspec.structs.replace(engine, model=str(path)))

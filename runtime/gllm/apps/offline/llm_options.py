"""Makes a `Config` from the options of `LLM(...)`."""

from __future__ import annotations

import difflib
import logging
from typing import Any

import msgspec

from gllm.apps.compat_flags import find
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
    """Check names and types of all options. Raises TypeError or ValueError that says what to write instead."""
    options = dict(_ours(name, value) for name, value in engine_options.items())
    try:
        engine = msgspec.convert({"model": str(model), **options}, EngineConfig)
        gateway = msgspec.convert(gateway_options, GatewayConfig)
        config = msgspec.convert(
            {"engine": engine, "gateway": gateway, "log_level": log_level}, Config, from_attributes=True
        )
    except msgspec.ValidationError as error:
        raise ValueError(f"wrong option: {error}") from None
    # This comes last, because it may download the model.
    path, _ = locate(str(model), source, weights=engine.load_format != "dummy", report=_log.info)
    return msgspec.structs.replace(config, engine=msgspec.structs.replace(engine, model=str(path)))


def _ours(name: str, value: Any) -> tuple[str, Any]:
    """Return (field of `EngineConfig`, value) of an option, which may be named as in vLLM or SGLang.

    Raises TypeError for an unknown name.
    """
    known = EngineConfig.__struct_fields__
    if name in known:
        return name, value
    row = find(f"--{name.replace('_', '-')}")
    field = row.ours.strip("-").replace("-", "_") if row is not None else ""
    if row is not None and field in known:
        return field, row.values.get(str(value), value)
    if row is not None and not row.ours:
        raise TypeError(f"LLM has no option {name!r}: {row.note}")
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]}?" if close else f"options are {', '.join(known)}"
    raise TypeError(f"LLM has no option {name!r}: {hint}")

"""Values of flags: from text to the type of the setting, and its bounds. All functions raise typer.BadParameter."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import typer

from gllm.tracing import missing_packages

_OTLP_GRPC_PORT = 4317
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def parse_bytes(text: str | int) -> int:
    """Parse `512M`, `2G`, `1.5GiB` (powers of 1024) or a number of bytes."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", str(text).strip(), re.IGNORECASE)
    if match is None:
        raise typer.BadParameter(f"{text!r} is not an amount of memory; write for example 512M or 2G")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def parse_layers(text: str | tuple[int, ...]) -> tuple[int, ...]:
    """Parse `16,16,17,15`, the layers of each stage."""
    if isinstance(text, tuple):
        return text
    try:
        return tuple(int(part) for part in text.split(",")) if text.strip() else ()
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a list of numbers; write for example 16,16,17,15") from None


def parse_origins(text: str | tuple[str, ...]) -> tuple[str, ...]:
    """Parse `https://a.example,https://b.example`, a JSON list of the same (as in vLLM), or `*`.

    `localhost` (as in llama.cpp) adds nothing: pages on localhost are always allowed.
    """
    if isinstance(text, tuple):
        return text
    try:
        parts = msgspec.json.decode(text, type=list[str]) if text.startswith("[") else text.split(",")
    except msgspec.MsgspecError:
        raise typer.BadParameter(f"{text!r} is not a JSON list of origins") from None
    origins = tuple(part.strip().rstrip("/").lower() for part in parts if part.strip() not in ("", "localhost"))
    for origin in origins:
        if origin != "*" and re.fullmatch(r"[a-z][a-z0-9+.-]*://[^\s/?#@]+", origin) is None:
            raise typer.BadParameter(f"{origin!r} is not an origin; write for example https://example.com, or *")
    return origins


def parse_names(text: str | tuple[str, ...]) -> tuple[str, ...]:
    """Parse `one,other`."""
    names = text if isinstance(text, tuple) else tuple(name.strip() for name in text.split(","))
    return tuple(name for name in names if name)


def parse_places(text: str) -> tuple[tuple[str, int], ...]:
    """Parse `host:port,[::1]:port`."""
    places = []
    for place in parse_names(text):
        host, _, port = place.rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 65536:
            raise typer.BadParameter(f"{place!r} is not an address of an engine; write for example 10.0.0.7:29600")
        places.append((host.removeprefix("[").removesuffix("]"), int(port)))
    return tuple(places)


def check_page_size(value: int) -> int:
    if value < 1 or value > 1024 or value & (value - 1):
        raise typer.BadParameter(f"{value} is not a power of two from 1 to 1024; 16 is usual")
    return value


def check_file(value: str) -> str:
    if value and not Path(value).is_file():
        raise typer.BadParameter(f"there is no file {value!r}")
    return value


def check_otlp(value: str) -> str:
    """Refuse what is not the URL of an HTTP server, and a collector if the packages for it are missing."""
    if not value:
        return value
    try:
        url = urlsplit(value)
        good = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:
        good = False
    if not good:
        raise typer.BadParameter(
            f"{value!r} is not an HTTP URL: write for example http://collector:4318 (OTLP over HTTP; not gRPC, 4317)"
        )
    if url.port == _OTLP_GRPC_PORT and url.path in ("", "/"):
        raise typer.BadParameter(
            f"port {_OTLP_GRPC_PORT} is that of OTLP over gRPC: give that of HTTP, usually 4318, or the whole path "
            f"if it is HTTP nevertheless: {value.rstrip('/')}/v1/traces"
        )
    if missing := missing_packages():
        raise typer.BadParameter(missing)
    return value


def check_share(value: float) -> float:
    if not 0.0 < value <= 1.0:
        raise typer.BadParameter(f"{value:g} is not a share: give more than 0 and at most 1, for example 0.9")
    return value


def check_seconds(value: float) -> float:
    if not 0.0 <= value < math.inf:
        raise typer.BadParameter(f"{value:g} is not a time: give seconds, for example 0.05, or 0 for none")
    return value


def check_below_one(value: float) -> float:
    if not 0.0 <= value < 1.0:
        raise typer.BadParameter(f"{value:g} is not a share below 1: give 0 or more, for example 0.05")
    return value


def check_api_key(context: typer.Context, parameter: typer.CallbackParam, value: str) -> str:
    """Refuse an empty key, which would allow every request, and one that a header cannot carry."""
    source = context.get_parameter_source(str(parameter.name))
    given = source is not None and source.name != "DEFAULT"
    path = os.environ.get("GLLM_API_KEY_FILE", "")
    if path and not given:
        try:
            value = Path(path).read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise typer.BadParameter(f"GLLM_API_KEY_FILE: {path} cannot be read: {error}") from None
        given = True
    if not value.strip() and (given or "GLLM_API_KEY" in os.environ):
        raise typer.BadParameter("the key is empty: give one, or leave out --api-key and unset GLLM_API_KEY")
    if any(character.isspace() or not character.isprintable() for character in value):
        raise typer.BadParameter("the key has a character that no header can carry, such as white space at its end")
    return value

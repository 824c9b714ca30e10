"""`gllm gateway --also 'MODEL FLAGS'`: further models, whose flags are parsed as those of the command itself."""

from __future__ import annotations

import shlex
from typing import Any

import typer

from gllm.apps.cli.options import GATEWAY_FLAGS, SOURCE_FLAGS

OF_A_MODEL = frozenset(
    {flag.name for flag in SOURCE_FLAGS}
    | {flag.name for flag in GATEWAY_FLAGS if flag.panel == "Model"}
    | {"served_model_name", "served_model_aliases", "max_queued_requests", "max_queued_tokens"}
    | {"model", "engines", "engine_timeout", "wait_for_engine", "routing", "keys_file"}
)
"""The parameters that each model has its own value of. The others belong to the server."""

FLAGS_OF_A_MODEL = frozenset(
    ["--routing"]
    + [
        spelling
        for flag in SOURCE_FLAGS + GATEWAY_FLAGS
        if flag.name in OF_A_MODEL
        for spelling in flag.option.split("/")
    ]
)
"""Their names on the command line, without those that say where the engines are."""


def parse_also(context: typer.Context, text: str) -> dict[str, Any]:
    """Return the parameters of a further model. Raises typer.BadParameter, which quotes the text and says the fix."""
    try:
        arguments = shlex.split(text)
    except ValueError as error:
        raise _refusal(text, f"{error}: quote the model and its flags once") from None
    if not arguments:
        raise _refusal(text, "give a model and its engines, such as 'Qwen/Qwen3-4B --engines 10.0.0.9:29600'")
    try:
        own = context.command.make_context(None, arguments)
    except Exception as error:  # typer carries its own copy of click, so its exceptions have no public base.
        message = getattr(error, "format_message", None)
        if message is None:
            raise
        raise _refusal(text, message()) from None
    sources = {name: own.get_parameter_source(name) for name in own.params}
    given = {name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"}
    foreign = sorted(given - OF_A_MODEL)
    if foreign:
        names = ", ".join("--" + name.replace("_", "-") for name in foreign)
        raise _refusal(text, f"{names} belongs to the server, not to one of its models: give it outside")
    for name, what in (("model", "MODEL"), ("engines", "--engines")):
        if name not in given:
            raise _refusal(text, f"it has no {what}: write 'MODEL --engines HOST:PORT'")
    return own.params


def _refusal(text: str, reason: str) -> typer.BadParameter:
    return typer.BadParameter(f"{text!r}: {reason}", param_hint="--also")

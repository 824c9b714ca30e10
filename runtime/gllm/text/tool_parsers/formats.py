"""How models write tool calls. A format is data: the parser and the grammar that forces calls are made from it."""

from __future__ import annotations

import msgspec


class ToolFormat(msgspec.Struct, frozen=True, kw_only=True):
    """A call is a JSON object with a name and arguments, between tags or bare."""

    name: str
    open_tag: str
    close_tag: str
    """Empty: nothing follows a call."""
    bare: bool
    """Whether a call needs no `open_tag` at the very start and after another call."""
    separator: str
    """Between calls; besides it white space may stand there."""
    arguments_key: str
    """What the model was trained to call the arguments; the parser takes both usual names."""
    name_is_enough: bool
    """Whether a name makes it a call, before the arguments' key is seen. Not for bare JSON, which may be an answer."""


HERMES = ToolFormat(
    name="hermes",
    open_tag="<tool_call>",
    close_tag="</tool_call>",
    bare=False,
    separator="",
    arguments_key="arguments",
    name_is_enough=True,
)
"""Hermes 2 and Qwen 2.5/3: <tool_call>{"name": ..., "arguments": {...}}</tool_call>, once for each call."""

LLAMA = ToolFormat(
    name="llama",
    open_tag="<|python_tag|>",
    close_tag="",
    bare=True,
    separator=";",
    arguments_key="parameters",
    name_is_enough=False,
)
"""Llama 3.x: {"name": ..., "parameters": {...}}, perhaps after <|python_tag|>; several are separated by `;`."""

PLAIN_JSON = ToolFormat(
    name="json",
    open_tag="",
    close_tag="",
    bare=True,
    separator="",
    arguments_key="arguments",
    name_is_enough=True,
)
"""Of our own, for calls that a grammar forces from a model whose format is not known: {"name": ..., "arguments": {...}}
and nothing else."""

_FORMATS = {chosen.name: chosen for chosen in (HERMES, LLAMA)}


def tool_format_for(name: str, template_source: str, *, reads_tools: bool = True) -> ToolFormat | None:
    """The format called `name`; "auto": by the chat template's own words, None if it shows neither; "none": None.

    A template that does not read tools says nothing of their format. Then a system text of ours does, and it is HERMES.
    """
    if name == "none":
        return None
    if name != "auto":
        if name not in _FORMATS:
            raise ValueError(f"tool_parser must be auto, none or one of {', '.join(_FORMATS)}, not {name!r}")
        return _FORMATS[name]
    if HERMES.open_tag in template_source:
        return HERMES
    if LLAMA.open_tag in template_source or (
        "<|start_header_id|>" in template_source and '"parameters"' in template_source
    ):
        return LLAMA
    return None if reads_tools else HERMES

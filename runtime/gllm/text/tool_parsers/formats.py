"""The formats in which models write tool calls, as data for the parser and for the grammar that forces calls."""

from __future__ import annotations

import msgspec


class ToolFormat(msgspec.Struct, frozen=True, kw_only=True):
    """A call is a JSON object with a name and arguments, between tags or bare."""

    name: str
    open_tag: str
    close_tag: str
    """Empty if nothing follows a call."""
    bare: bool
    """Whether a call at the start of the text or after another call needs no `open_tag`."""
    separator: str
    """Stands between calls, with or without white space."""
    arguments_key: str
    """The key of the arguments that the model was trained with; the parser takes both usual keys."""
    name_is_enough: bool
    """Whether an object with a name is a call before it has arguments. False for bare JSON, which may be an answer."""


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
"""Llama 3.x: {"name": ..., "parameters": {...}}, with or without <|python_tag|> before it; `;` between calls."""

PLAIN_JSON = ToolFormat(
    name="json",
    open_tag="",
    close_tag="",
    bare=True,
    separator="",
    arguments_key="arguments",
    name_is_enough=True,
)
"""For calls that a grammar forces from a model without a known format: {"name": ..., "arguments": {...}} alone."""

_FORMATS = {chosen.name: chosen for chosen in (HERMES, LLAMA)}


def tool_format_for(name: str, template_source: str, *, reads_tools: bool = True) -> ToolFormat | None:
    """Return the format called `name`, None for "none". "auto" takes the format that the chat template shows, or None.

    A template that does not read tools has no format. Then a system text describes the tools, and the format is HERMES.
    Raises ValueError for other names.
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

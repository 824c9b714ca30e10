"""Tool calls out of generated text, while it streams."""

from __future__ import annotations

from gllm.text.tool_parsers.formats import HERMES, LLAMA, PLAIN_JSON, ToolFormat, tool_format_for
from gllm.text.tool_parsers.repeats import WithoutRepeats
from gllm.text.tool_parsers.stream import ParsedDelta, ToolCallDelta, ToolParser

__all__ = [
    "HERMES",
    "LLAMA",
    "PLAIN_JSON",
    "ParsedDelta",
    "ToolCallDelta",
    "ToolFormat",
    "ToolParser",
    "WithoutRepeats",
    "tool_format_for",
    "tool_parser_for",
]


def tool_parser_for(name: str, template_source: str) -> ToolParser | None:
    """A fresh parser for one generation; None if calls are not parsed. See `tool_format_for`."""
    chosen = tool_format_for(name, template_source)
    return None if chosen is None else ToolParser(chosen)

"""Parses tool calls in generated text, while it streams."""

from __future__ import annotations

from gllm.text.tool_parsers.formats import HERMES, LLAMA, PLAIN_JSON, ToolFormat, tool_format_for
from gllm.text.tool_parsers.parser import ParsedDelta, ToolCallDelta, ToolParser, WithoutRepeats

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
]

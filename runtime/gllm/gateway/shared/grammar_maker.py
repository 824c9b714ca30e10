"""Builds and checks the grammars of requests."""

from __future__ import annotations

from typing import Any

from gllm.text import grammar
from gllm.text.tokenizer import Tokenizer
from gllm.text.tool_parsers import PLAIN_JSON, ToolFormat


class GrammarMaker:
    """`gllm.text.grammar` with this model's vocabulary and tool format filled in.

    All methods raise ParameterError for `param`; `check` also raises it if a grammar compiles too slowly.
    """

    def __init__(self, tokenizer: Tokenizer, logits_width: int, tool_format: ToolFormat | None) -> None:
        self._checker = grammar.GrammarChecker(tokenizer, logits_width)
        self._tool_format = tool_format

    from_json_schema = staticmethod(grammar.grammar_from_json_schema)
    from_regex = staticmethod(grammar.grammar_from_regex)
    from_text = staticmethod(grammar.grammar_from_text)
    from_choices = staticmethod(grammar.grammar_from_choices)
    any_json_object = staticmethod(grammar.any_json_object)

    def for_tools(
        self, tools: list[dict[str, Any]], choice: str | dict[str, Any], *, parallel: bool, answer: str | None
    ) -> str | None:
        return grammar.grammar_for_tools(
            tools, choice, self._tool_format or PLAIN_JSON, parallel=parallel, answer=answer
        )

    def check(self, text: str, *, param: str) -> None:
        self._checker.check(text, param=param)

    def close(self) -> None:
        self._checker.close()

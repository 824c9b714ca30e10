"""Builds `ServedModel` from the checkpoint's tokenizer, template and configuration."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from gllm.config import Config
from gllm.gateway.shared import interfaces
from gllm.gateway.shared.served_model import ServedModel
from gllm.models.families import load_model_config
from gllm.text import grammar
from gllm.text.output.detokenizer import TextStream
from gllm.text.output.reasoning import ReasoningParser, reasoning_parser_for
from gllm.text.templates.chat_template import ChatTemplate
from gllm.text.templates.tool_prompt import ToolsInSystemText, reads_tools
from gllm.text.tokenizer import Tokenizer, load_tokenizer
from gllm.text.tool_parsers import PLAIN_JSON, ToolFormat, ToolParser, WithoutRepeats, tool_format_for


class Grammars:
    """`gllm.text.grammar` with this model's vocabulary and tool format filled in."""

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


def _tool_parser(tool_format: ToolFormat | None, knows_tools: bool) -> Callable[[], interfaces.ToolParser] | None:
    """Makes a parser for one answer."""
    if tool_format is None:
        return None
    if knows_tools:
        return partial(ToolParser, tool_format)
    return lambda: WithoutRepeats(ToolParser(tool_format))


def load_served_model(config: Config) -> ServedModel:
    """Reads the model's text side. Raises ValueError with one line that says what is wrong."""
    settings = config.gateway
    path = Path(config.engine.model)
    shape = load_model_config(path)
    tokenizer = load_tokenizer(path)
    template = ChatTemplate.of_model(
        tokenizer, settings.chat_template, allow_special_tokens=settings.allow_special_tokens
    )
    knows_tools = reads_tools(template.tool_source)
    tool_format = tool_format_for(settings.tool_parser, template.tool_source, reads_tools=knows_tools)
    shown = template if knows_tools else ToolsInSystemText(template, tool_format or PLAIN_JSON)

    def reasoning(prompt: str) -> ReasoningParser | None:
        return reasoning_parser_for(settings.reasoning_parser, template.source, prompt)

    return ServedModel(
        name=settings.served_model_name or path.name,
        aliases=settings.served_model_aliases,
        config=shape,
        tokenizer=tokenizer,
        text_stream=partial(TextStream, tokenizer),
        grammars=Grammars(tokenizer, shape.vocab_size, tool_format),
        template=shown if template.source else None,
        tool_parser=_tool_parser(tool_format, knows_tools),
        reasoning_parser=reasoning if reasoning("") is not None else None,
        sampling_defaults=shape.generation_defaults if settings.generation_config == "auto" else {},
        longest_token=max((len(piece) for piece in tokenizer.token_pieces), default=1),
    )

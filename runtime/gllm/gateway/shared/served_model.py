"""The model as the gateway knows it: names, sizes, tokenizer, template, parsers. No weights, no torch."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gllm.config import Config
from gllm.gateway.protocol.errors import ApiError
from gllm.gateway.shared.grammar_maker import GrammarMaker
from gllm.gateway.shared.text_threads import TextThreads
from gllm.models.config import ModelConfig
from gllm.models.families import load_model_config
from gllm.sampling_params import SamplingParams
from gllm.text.output.detokenizer import TextStream
from gllm.text.output.reasoning import ReasoningParser, reasoning_parser_for
from gllm.text.output.stop_patterns import StopPatterns
from gllm.text.output.stop_strings import StopStrings
from gllm.text.templates.chat_template import ChatTemplate
from gllm.text.templates.tool_prompt import ToolsInSystemText, reads_tools
from gllm.text.tokenizer import Tokenizer, load_tokenizer
from gllm.text.tool_parsers import PLAIN_JSON, ToolParser, WithoutRepeats, tool_format_for


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    name: str
    aliases: tuple[str, ...] = ()
    """Further names that requests may use."""
    config: ModelConfig
    tokenizer: Tokenizer
    grammars: GrammarMaker
    template: ChatTemplate | ToolsInSystemText | None = None
    """None: the model has no chat template."""
    tool_parser: Callable[[], ToolParser | WithoutRepeats] | None = None
    reasoning_parser: Callable[[str], ReasoningParser | None] | None = None
    """Makes a parser from the rendered prompt. None if the end of the prompt has closed the reasoning."""
    sampling_defaults: dict[str, Any] = field(default_factory=dict)
    """Defaults of sampling parameters from the model's files; empty: gLLM's own defaults."""
    longest_token: int = 1024
    """Characters of the longest token."""
    created: int = field(default_factory=lambda: int(time.time()))
    threads: TextThreads = field(default_factory=TextThreads)
    grammar_threads: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(max_workers=1, thread_name_prefix="grammar")
    )
    """A thread of their own, so that a slow grammar delays only requests with grammars."""

    @property
    def names(self) -> tuple[str, ...]:
        """All names that requests may use."""
        return self.name, *self.aliases

    def close(self) -> None:
        """Drop the work that waits for a thread, and end the grammar checker's process."""
        self.threads.close()
        self.grammar_threads.shutdown(wait=False, cancel_futures=True)
        self.grammars.close()

    def text_stream(
        self,
        sampling: SamplingParams,
        *,
        stops: StopStrings,
        patterns: StopPatterns | None,
        continues_text: bool,
    ) -> TextStream:
        """Return the detokenizer of one answer, which ends it at a stop string or a match of the patterns.

        continues_text: the answer continues the prompt's text, so a leading space is part of it.
        """
        return TextStream(
            self.tokenizer,
            stop=stops,
            patterns=patterns,
            include_stop=sampling.include_stop_str_in_output,
            min_tokens=sampling.min_tokens,
            skip_special_tokens=sampling.skip_special_tokens,
            keep_leading_space=continues_text,
        )

    def parser_of_calls(self, *, forced: bool) -> ToolParser | WithoutRepeats | None:
        """Return a parser for one answer, None if the format is unknown. Forced calls have the grammar's format."""
        if self.tool_parser is not None:
            return self.tool_parser()
        return ToolParser(PLAIN_JSON) if forced else None

    def check_token_ids(self, ids: Sequence[int], param: str) -> None:
        """Raise ApiError 400 for ids beyond the width of the logits."""
        if ids and max(ids) >= self.config.vocab_size:
            size = self.config.vocab_size
            raise ApiError(
                400,
                f"{param}: token id {max(ids)} is out of vocabulary: the model has {size} tokens.",
                param=param,
                code="invalid_value",
            )


def load_served_model(config: Config) -> ServedModel:
    """Read tokenizer, template and config. Raises ValueError with a message of one line."""
    settings = config.gateway
    path = Path(config.engine.model)
    model_config = load_model_config(path)
    tokenizer = load_tokenizer(path)
    template = ChatTemplate.of_model(
        tokenizer, settings.chat_template, allow_special_tokens=settings.allow_special_tokens
    )
    knows_tools = reads_tools(template.tool_source)
    tool_format = tool_format_for(settings.tool_parser, template.tool_source, reads_tools=knows_tools)
    tool_template = template if knows_tools else ToolsInSystemText(template, tool_format or PLAIN_JSON)

    def tool_parser() -> ToolParser | WithoutRepeats:
        parser = ToolParser(tool_format or PLAIN_JSON)
        return parser if knows_tools else WithoutRepeats(parser)

    def reasoning(prompt: str) -> ReasoningParser | None:
        return reasoning_parser_for(settings.reasoning_parser, template.source, prompt)

    return ServedModel(
        name=settings.served_model_name or path.name,
        aliases=settings.served_model_aliases,
        config=model_config,
        tokenizer=tokenizer,
        grammars=GrammarMaker(tokenizer, model_config.vocab_size, tool_format),
        template=tool_template if template.source else None,
        tool_parser=tool_parser if tool_format is not None else None,
        reasoning_parser=reasoning if reasoning("") is not None else None,
        sampling_defaults=model_config.generation_defaults if settings.generation_config == "auto" else {},
        longest_token=max((len(piece) for piece in tokenizer.token_pieces), default=1),
    )

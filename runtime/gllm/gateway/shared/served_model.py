"""The model as the gateway knows it: names, shape, text tools. No weights, no torch."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

from gllm.gateway.protocol.errors import ApiError
from gllm.gateway.shared.interfaces import GrammarMaker, ReasoningParser, Template, TextStream, Tokenizer, ToolParser
from gllm.gateway.shared.text_threads import TextThreads
from gllm.models.config import ModelConfig
from gllm.text.output.stop_patterns import StopPatterns
from gllm.text.output.stop_strings import StopStrings
from gllm.text.tool_parsers import PLAIN_JSON
from gllm.text.tool_parsers import ToolParser as PlainToolParser


class TextStreamFactory(Protocol):
    def __call__(
        self,
        *,
        stop: StopStrings,
        patterns: StopPatterns | None,
        include_stop: bool,
        min_tokens: int,
        skip_special_tokens: bool,
        keep_leading_space: bool,
    ) -> TextStream: ...


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    name: str
    aliases: tuple[str, ...] = ()
    """More names that requests may give."""
    config: ModelConfig
    tokenizer: Tokenizer
    text_stream: TextStreamFactory
    grammars: GrammarMaker
    template: Template | None = None
    """None: the model has no chat template."""
    tool_parser: Callable[[], ToolParser] | None = None
    reasoning_parser: Callable[[str], ReasoningParser | None] | None = None
    """From the rendered prompt, whose end may already open the thinking, or close it again (then None)."""
    sampling_defaults: dict[str, Any] = field(default_factory=dict)
    """generation_config.json's, or empty."""
    longest_token: int = 1024
    """Characters that one token can stand for, at most."""
    created: int = field(default_factory=lambda: int(time.time()))
    threads: TextThreads = field(default_factory=TextThreads)
    grammar_threads: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(max_workers=1, thread_name_prefix="grammar")
    )
    """Apart, so that a slow grammar delays only requests with grammars."""

    def close(self) -> None:
        """Drop what waits for a thread, and end the grammar checker's process."""
        self.threads.close()
        self.grammar_threads.shutdown(wait=False, cancel_futures=True)
        self.grammars.close()

    def parser_of_calls(self, *, forced: bool) -> ToolParser | None:
        """For one answer; None if the format is not known. Forced calls have one in any case: the grammar's."""
        if self.tool_parser is not None:
            return self.tool_parser()
        return PlainToolParser(PLAIN_JSON) if forced else None

    def check_name(self, requested: str | None) -> None:
        """Raises ApiError 404; no name, or an empty one, means the model there is."""
        if requested and requested not in (self.name, *self.aliases):
            raise ApiError(404, f"The model '{requested}' does not exist; this server has '{self.name}'.",
                           param="model", code="model_not_found")  # fmt: skip

    def check_token_ids(self, ids: Sequence[int], param: str) -> None:
        """Against the width of the logits: a larger id would index past a row."""
        if ids and max(ids) >= self.config.vocab_size:
            size = self.config.vocab_size
            raise ApiError(400, f"{param}: token id {max(ids)} is out of vocabulary: the model has {size} tokens.",
                           param=param, code="invalid_value")  # fmt: skip

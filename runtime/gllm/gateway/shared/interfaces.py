"""What the gateway needs of the engine client and of the text layer, so that tests can put something else there.

The real ones are `gllm.engine.client.client.EngineClient` and the classes of `gllm.text`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, Protocol

from gllm.sampling_params import SamplingParams
from gllm.wire.messages import EngineStats, Hello, RequestOutput


class Engine(Protocol):
    """Submits requests to the engine process and hands out what comes back."""

    hello: Hello | None
    """None while no engine serves."""
    limits: Hello | None
    """What new requests may count on; while the engine is being replaced, what the last one said."""
    stats: EngineStats
    last_heard: float
    """time.monotonic() of the last message."""

    async def connect(self, epoch: int, timeout: float = 600.0) -> Hello: ...

    def generate(
        self,
        request_id: str,
        token_ids: list[int],
        sampling: SamplingParams,
        *,
        priority: int = 0,
        cache_salt: str = "",
    ) -> AsyncIterator[RequestOutput]: ...

    def pause(self, reason: str) -> None: ...

    def engine_down(self, reason: str) -> None: ...

    async def close(self) -> None: ...


class Tokenizer(Protocol):
    bos_token: str | None
    eos_token: str | None
    special_token_ids: frozenset[int]

    def encode(self, text: str, add_special_tokens: bool = True, *, max_tokens: int | None = None) -> list[int]: ...

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str: ...

    def token_text(self, token_id: int) -> str: ...

    def token_bytes(self, token_id: int) -> bytes: ...

    def spelling(self, token_id: int) -> str: ...


class TextStream(Protocol):
    """Incremental detokeniser of one choice, which also looks for stop strings."""

    stop_reason: str | None
    num_tokens: int
    """Ids taken in, up to the one that completed a stop string."""

    def feed(self, token_ids: Sequence[int]) -> str: ...

    def finish(self) -> str: ...


class Template(Protocol):
    @property
    def source(self) -> str: ...

    def render(
        self,
        messages: list[dict[str, Any]],
        /,
        *,
        tools: list[dict[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        **template_kwargs: Any,
    ) -> str: ...


class ToolCallDelta(Protocol):
    @property
    def index(self) -> int: ...
    @property
    def id(self) -> str | None: ...
    @property
    def name(self) -> str | None: ...
    @property
    def arguments(self) -> str: ...


class ParsedDelta(Protocol):
    @property
    def content(self) -> str: ...
    @property
    def tool_calls(self) -> Sequence[ToolCallDelta]: ...


class ToolParser(Protocol):
    ended: bool
    """The answer should end here, whatever the model would add."""

    def feed(self, text: str) -> ParsedDelta: ...

    def finish(self) -> ParsedDelta: ...


class ReasoningParser(Protocol):
    """Splits a stream of text into (reasoning, content)."""

    def feed(self, text: str) -> tuple[str, str]: ...

    def finish(self) -> tuple[str, str]: ...


class GrammarMaker(Protocol):
    """Builds llguidance grammars. All raise ParameterError(param); `check` also for what compiles too slowly."""

    def from_json_schema(self, schema: dict[str, Any], *, compact: bool = False, param: str) -> str: ...

    def from_regex(self, regex: str, *, param: str) -> str: ...

    def from_text(self, text: str, *, param: str) -> str: ...

    def from_choices(self, choices: Sequence[str], *, param: str) -> str: ...

    def any_json_object(self, *, compact: bool = False) -> str: ...

    def for_tools(
        self, tools: list[dict[str, Any]], choice: str | dict[str, Any], *, parallel: bool, answer: str | None
    ) -> str | None: ...

    def check(self, grammar: str, *, param: str) -> None: ...

    def close(self) -> None: ...

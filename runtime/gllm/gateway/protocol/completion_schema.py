"""The bodies of POST /v1/completions, /tokenize and /detokenize."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from gllm.gateway.protocol.chat_schema import MAX_MESSAGES
from gllm.gateway.protocol.generation_schema import MAX_CHOICES, GenerationRequest
from gllm.gateway.protocol.message_schema import MAX_TOOLS, ChatMessage, TemplateKwargs, Tool, num_chars
from gllm.gateway.protocol.schema import MAX_INT, Body, Label, TokenId
from gllm.sampling_params import MAX_LOGPROBS, MAX_N, ParameterError

MAX_PROMPTS = 128
MAX_PROMPT_TOKENS = 1_000_000
DEFAULT_MAX_TOKENS = 16

TokenIds = Annotated[list[TokenId], Field(min_length=1, max_length=MAX_PROMPT_TOKENS, fail_fast=True)]


def _prompt_kind(value: Any) -> str | None:
    """Choose the member of the union by the first item. Trying all four on a long list would take seconds."""
    if isinstance(value, str):
        return "(text)"
    if not isinstance(value, list):
        return None
    first = value[0] if value else 0
    if isinstance(first, list):
        return "list[list[int]]"
    return "list[str]" if isinstance(first, str) else "list[int]"


def _check_num_prompts(value: Any) -> Any:
    """Check the number of prompts before their contents; pydantic checks the length of a list last."""
    if isinstance(value, list) and len(value) > MAX_PROMPTS and not isinstance(value[0], int):
        raise ValueError(f"at most {MAX_PROMPTS} prompts are allowed")
    return value


# Tags contain a bracket: by it `validation` tells the names of union members from parts of a field's path.
Prompt = Annotated[
    Annotated[str, Tag("(text)")]
    | Annotated[TokenIds, Tag("list[int]")]
    | Annotated[list[str], Field(min_length=1, max_length=MAX_PROMPTS, fail_fast=True), Tag("list[str]")]
    | Annotated[list[TokenIds], Field(min_length=1, max_length=MAX_PROMPTS, fail_fast=True), Tag("list[list[int]]")],
    Discriminator(
        _prompt_kind,
        custom_error_type="wrong_type",
        custom_error_message="Input should be a string, a list of strings, token ids or a list of lists of token ids",
    ),
    BeforeValidator(_check_num_prompts),
]


class CompletionRequest(GenerationRequest):
    prompt_field: ClassVar[str] = "prompt"
    default_max_tokens: ClassVar[int | None] = DEFAULT_MAX_TOKENS

    prompt: Prompt
    max_tokens: Annotated[int, Field(ge=0, le=MAX_INT)] | None = DEFAULT_MAX_TOKENS
    """None: as many tokens as fit the context."""
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    echo: bool | None = None
    best_of: Annotated[int, Field(ge=1, le=MAX_N)] | None = None

    @model_validator(mode="after")
    def _completion_consistent(self) -> CompletionRequest:
        if self.best_of is not None and self.best_of != self.choices_per_prompt:
            raise ParameterError("best_of", "best_of is not supported unless it equals n")
        if self.max_tokens == 0 and not self.echo:
            raise ParameterError("max_tokens", "max_tokens may be 0 only with echo")
        if len(self.prompts) * self.choices_per_prompt > MAX_CHOICES:
            raise ParameterError("n", f"prompts times n must not exceed {MAX_CHOICES}")
        return self

    @property
    def prompts(self) -> list[str | list[int]]:
        """Each prompt as text or as token ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [self.prompt]
        return list(self.prompt)

    @property
    def num_prompts(self) -> int:
        return len(self.prompts)

    @property
    def num_chars(self) -> int:
        return sum(len(prompt) for prompt in self.prompts if isinstance(prompt, str))

    @property
    def continues_text(self) -> bool:
        return True

    @property
    def output_limit(self) -> int | None:
        return self.max_tokens

    @property
    def num_logprobs(self) -> int | None:
        return self.logprobs

    @property
    def num_prompt_logprobs(self) -> int | None:
        """With echo, `logprobs` covers the prompt's tokens too."""
        return self.logprobs if self.echo and self.prompt_logprobs is None else self.prompt_logprobs


class TokenizeRequest(Body):
    """Has `prompt`, `messages` as for a chat, or llama.cpp's `content`."""

    model: Label | None = None
    prompt: str | None = None
    content: str | None = None
    add_special_tokens: bool | None = None
    add_special: bool | None = None
    with_pieces: bool | None = None
    """`add_special` and `with_pieces` are llama.cpp's names, for use with `content`."""
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)] | None = None
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS, fail_fast=True)] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: TemplateKwargs | None = None
    reasoning_effort: Label | None = None
    return_token_strs: bool | None = None

    @model_validator(mode="after")
    def _one(self) -> TokenizeRequest:
        if [self.prompt, self.content, self.messages].count(None) != 2:
            raise ParameterError("prompt", "give either prompt or messages")
        if self.messages is None:
            for field in ("tools", "continue_final_message"):
                if getattr(self, field):
                    raise ParameterError(field, f"{field} goes with messages")
        return self

    @property
    def num_chars(self) -> int:
        return len(self.prompt or self.content or "") + num_chars(self.messages or ())

    @property
    def adds_special_tokens(self) -> bool:
        """The default is true for a plain prompt, as in /v1/completions; a rendered chat contains its own."""
        asked = self.add_special_tokens if self.add_special_tokens is not None else self.add_special
        return self.prompt is not None if asked is None else asked


class DetokenizeRequest(Body):
    model: Label | None = None
    tokens: Annotated[list[TokenId], Field(max_length=MAX_PROMPT_TOKENS, fail_fast=True)]

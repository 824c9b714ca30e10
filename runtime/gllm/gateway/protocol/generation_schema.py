"""Fields that chat and text completions share, each with a bound."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, StringConstraints, Tag, model_validator

from gllm.gateway.protocol.constraints import (
    GUIDED_FIELDS,
    Grammar,
    GuidedChoices,
    ResponseFormat,
    SchemaOrText,
    StructuredOutputs,
)
from gllm.gateway.protocol.schema import MAX_INT, Body, Label, Schema, TokenId, by_type
from gllm.sampling_params import (
    MAX_ALLOWED_TOKEN_IDS,
    MAX_BAD_WORDS,
    MAX_LOGIT_BIAS,
    MAX_LOGPROB_TOKEN_IDS,
    MAX_LOGPROBS,
    MAX_N,
    MAX_STOP_TOKEN_IDS,
    ParameterError,
)

MAX_CHOICES = 128
"""Limit of the engine requests of one HTTP request: prompts times n."""

StopString = Annotated[str, StringConstraints(min_length=1)]
Stop = Annotated[
    Annotated[StopString, Tag("(text)")] | Annotated[list[StopString], Field(fail_fast=True), Tag("list[str]")],
    by_type("a string or a list of strings", {str: "(text)", list: "list[str]"}),
]


def texts_of(stop: str | list[str] | None) -> list[str]:
    """Return the strings of a field that may have one string or several."""
    return [stop] if isinstance(stop, str) else stop or []


def _check_biases(value: Any) -> Any:
    """Check the number of entries before their contents: pydantic checks all entries of a dict."""
    if not isinstance(value, dict):
        return value
    if len(value) > MAX_LOGIT_BIAS:
        raise ValueError(f"at most {MAX_LOGIT_BIAS} entries are allowed")
    if len({token.lstrip("0") for token in value}) < len(value):
        raise ValueError("a token is named twice")
    return {token: bias for token, bias in value.items() if bias is not None}


class StreamOptions(Schema):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    include_obfuscation: bool | None = None
    """Ignored: chunks are not padded."""

    @property
    def usage_in_chunks(self) -> bool:
        """Whether every chunk has the counts so far; `"include_usage": false` forbids it, as in vLLM."""
        return bool(self.continuous_usage_stats) and self.include_usage is not False

    @property
    def usage_at_end(self) -> bool:
        return bool(self.include_usage) or self.usage_in_chunks


class GenerationRequest(Body):
    """The fields and properties that chat and text completions share."""

    prompt_field: ClassVar[str]
    """The request field to which errors about the prompt refer."""
    default_max_tokens: ClassVar[int | None] = None
    """None: as many tokens as fit the context."""
    ends_with_context: ClassVar[bool] = False
    """True: an answer may end where the context is full. False: a request for more tokens than fit is refused."""

    model: Label | None = None
    """None: the served model."""

    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=MAX_INT)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] | None = None
    logit_bias: (
        Annotated[
            dict[
                Annotated[str, StringConstraints(pattern=r"^[0-9]{1,10}$")],
                Annotated[float, Field(ge=-100, le=100)],
            ],
            BeforeValidator(_check_biases),
        ]
        | None
    ) = None

    stop: Stop | None = None
    stop_token_ids: Annotated[list[TokenId], Field(max_length=MAX_STOP_TOKEN_IDS, fail_fast=True)] | None = None
    stop_regex: Stop | None = None
    include_stop_str_in_output: bool | None = None
    no_stop_trim: bool | None = None
    """SGLang's name for include_stop_str_in_output."""
    min_tokens: Annotated[int, Field(ge=0, le=MAX_INT)] | None = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None
    bad_words: Annotated[list[StopString], Field(max_length=MAX_BAD_WORDS, fail_fast=True)] | None = None
    allowed_token_ids: Annotated[list[TokenId], Field(max_length=MAX_ALLOWED_TOKEN_IDS, fail_fast=True)] | None = None
    truncate_prompt_tokens: Annotated[int, Field(ge=-1, le=MAX_INT)] | None = None
    truncation_side: Literal["left", "right"] | None = None

    n: Annotated[int, Field(ge=1, le=MAX_N)] | None = None
    prompt_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    logprob_token_ids: Annotated[list[TokenId], Field(max_length=MAX_LOGPROB_TOKEN_IDS, fail_fast=True)] | None = None
    return_token_ids: bool | None = None
    return_tokens_as_token_ids: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    priority: Annotated[int, Field(ge=-MAX_INT, le=MAX_INT)] | None = None
    """Requests with smaller values run first."""
    cache_salt: Annotated[str, StringConstraints(min_length=1, max_length=256)] | None = None
    add_special_tokens: bool | None = None

    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: SchemaOrText | None = None
    guided_regex: Grammar | None = None
    guided_choice: GuidedChoices | None = None
    guided_grammar: Grammar | None = None
    json_schema: SchemaOrText | None = None
    regex: Grammar | None = None
    ebnf: Grammar | None = None
    grammar: Grammar | None = None

    @model_validator(mode="after")
    def _consistent(self) -> GenerationRequest:
        if self.prompt_logprobs is not None and self.stream:
            raise ParameterError("prompt_logprobs", "prompt_logprobs cannot be streamed")
        guided = self.guides
        if len(guided) > 1:
            raise ParameterError(guided[-1], f"give only one of {', '.join(guided)}")
        return self

    @property
    def guides(self) -> list[str]:
        """Names of the given fields that constrain the answer by a grammar."""
        guided = [name for name in GUIDED_FIELDS if getattr(self, name) is not None]
        if self.structured_outputs and self.structured_outputs.kinds:
            guided.append("structured_outputs")
        if self.response_format and self.response_format.type != "text":
            guided.append("response_format")
        return guided

    @property
    def choices_per_prompt(self) -> int:
        return self.n or 1

    @property
    def num_prompts(self) -> int:
        return 1

    @property
    def num_chars(self) -> int:
        """Approximate number of characters to tokenize."""
        raise NotImplementedError

    @property
    def continues_text(self) -> bool:
        """Whether the answer continues the prompt's text, so that a leading space is part of it."""
        raise NotImplementedError

    @property
    def output_limit(self) -> int | None:
        """Limit of the tokens of an answer; None if the request has none."""
        raise NotImplementedError

    @property
    def num_logprobs(self) -> int | None:
        """Number of alternatives to each token of the answer; None: no logprobs."""
        raise NotImplementedError

    @property
    def num_prompt_logprobs(self) -> int | None:
        return self.prompt_logprobs

    @property
    def wants_usage_chunk(self) -> bool:
        return bool(self.stream_options and self.stream_options.usage_at_end)

    @property
    def wants_continuous_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.usage_in_chunks)

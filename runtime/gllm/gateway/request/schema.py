"""Fields shared by chat and text completions, every one with a bound."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, field_validator, model_validator

from gllm.sampling_params import (
    MAX_GRAMMAR_BYTES,
    MAX_LOGIT_BIAS,
    MAX_LOGPROBS,
    MAX_N,
    MAX_STOP_STRING_CHARS,
    MAX_STOP_STRINGS,
    MAX_STOP_TOKEN_IDS,
    ParameterError,
)

MAX_INT = 2**31 - 1
MAX_CHOICES = 128
"""Most engine requests that one HTTP request may make: prompts times n."""
MAX_JSON_DEPTH = 32
MAX_JSON_NODES = 10_000
GUIDED_FIELDS = ("structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar")

Label = Annotated[str, StringConstraints(max_length=256)]
Grammar = Annotated[str, StringConstraints(min_length=1, max_length=MAX_GRAMMAR_BYTES)]
StopString = Annotated[str, StringConstraints(min_length=1, max_length=MAX_STOP_STRING_CHARS)]
TokenId = Annotated[int, Field(ge=0, le=MAX_INT)]
Choice = Annotated[str, StringConstraints(min_length=1, max_length=4096)]
Choices = Annotated[list[Choice], Field(min_length=1, max_length=256, fail_fast=True)]


def _check_num_biases(value: Any) -> Any:
    """Before each of them is looked at: a dict does not fail fast."""
    if isinstance(value, dict) and len(value) > MAX_LOGIT_BIAS:
        raise ValueError(f"at most {MAX_LOGIT_BIAS} entries are allowed")
    return value


def check_json(value: Any, what: str) -> Any:
    """Bound a free-form JSON value: depth, number of nodes, integer size, and text that is valid Unicode."""
    nodes = 0
    level = [value]
    for _ in range(MAX_JSON_DEPTH):
        following: list[Any] = []
        for node in level:
            nodes += 1
            if nodes > MAX_JSON_NODES:
                raise ValueError(f"{what} has more than {MAX_JSON_NODES} values")
            if isinstance(node, dict):
                following.extend(node.values())
            elif isinstance(node, list):
                following.extend(node)
            elif isinstance(node, int) and abs(node) > 2**63:
                raise ValueError(f"{what} has an integer beyond 64 bits")
        if not following:
            return value
        level = following
    raise ValueError(f"{what} is nested deeper than {MAX_JSON_DEPTH} levels")


class Schema(BaseModel):
    """Strict: no coercion, no unknown fields, no NaN; and an error never repeats what the client sent."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, hide_input_in_errors=True)


class StreamOptions(Schema):
    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None


class JsonSchemaFormat(Schema):
    name: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    description: Annotated[str, StringConstraints(max_length=4096)] | None = None
    strict: bool | None = None
    """The output always matches the schema; true also closes objects that list their properties."""
    json_schema: dict[str, Any] = Field(alias="schema")

    @field_validator("json_schema")
    @classmethod
    def _bounded(cls, value: dict[str, Any]) -> dict[str, Any]:
        check_json(value, "schema")
        return value


class ResponseFormat(Schema):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None

    @model_validator(mode="after")
    def _complete(self) -> ResponseFormat:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("'json_schema' goes with type 'json_schema', and only with it")
        return self


class StructuredOutputs(Schema):
    """vLLM's newer name for the guided_* fields; exactly one of them."""

    json_: dict[str, Any] | Grammar | None = Field(default=None, alias="json")
    regex: Grammar | None = None
    choice: Choices | None = None
    grammar: Grammar | None = None
    json_object: Literal[True] | None = None

    @model_validator(mode="after")
    def _one(self) -> StructuredOutputs:
        given = [v for v in (self.json_, self.regex, self.choice, self.grammar, self.json_object) if v is not None]
        if len(given) != 1:
            raise ValueError("give exactly one of json, regex, choice, grammar and json_object")
        check_json(self.json_, "json")
        return self


class GenerationRequest(Schema):
    """What chat and text completions have in common."""

    prompt_field: ClassVar[str]
    """The field that an error about the prompt names."""
    default_max_tokens: ClassVar[int | None] = None
    """None: as many as the context has room for."""

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
            Field(max_length=MAX_LOGIT_BIAS),
            BeforeValidator(_check_num_biases),
        ]
        | None
    ) = None

    stop: StopString | Annotated[list[StopString], Field(max_length=MAX_STOP_STRINGS, fail_fast=True)] | None = None
    stop_token_ids: Annotated[list[TokenId], Field(max_length=MAX_STOP_TOKEN_IDS, fail_fast=True)] | None = None
    include_stop_str_in_output: bool | None = None
    min_tokens: Annotated[int, Field(ge=0, le=MAX_INT)] | None = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None

    n: Annotated[int, Field(ge=1, le=MAX_N)] | None = None
    prompt_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    priority: Annotated[int, Field(ge=-MAX_INT, le=MAX_INT)] | None = None
    """Smaller first."""
    cache_salt: Annotated[str, StringConstraints(min_length=1, max_length=256)] | None = None
    add_special_tokens: bool | None = None

    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: dict[str, Any] | Grammar | None = None
    guided_regex: Grammar | None = None
    guided_choice: Choices | None = None
    guided_grammar: Grammar | None = None

    user: Label | None = None
    safety_identifier: Label | None = None
    spaces_between_special_tokens: Literal[True] | None = None
    use_beam_search: Literal[False] | None = None

    @field_validator("guided_json")
    @classmethod
    def _bounded_guided_json(cls, value: dict[str, Any] | str | None) -> dict[str, Any] | str | None:
        check_json(value, "guided_json")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> GenerationRequest:
        if self.stream_options is not None and not self.stream:
            raise ParameterError("stream_options", "stream_options is only allowed when stream is true")
        if self.prompt_logprobs is not None and self.stream:
            raise ParameterError("prompt_logprobs", "prompt_logprobs cannot be streamed")
        guided = self.guides
        if len(guided) > 1:
            raise ParameterError(guided[-1], f"give only one of {', '.join(guided)}")
        return self

    @property
    def guides(self) -> list[str]:
        """Names of the fields that ask for a grammar."""
        guided = [name for name in GUIDED_FIELDS if getattr(self, name) is not None]
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
        """Characters of text to tokenize, about."""
        raise NotImplementedError

    @property
    def continues_text(self) -> bool:
        """The answer goes on from the prompt's text, so a leading space is part of it."""
        raise NotImplementedError

    @property
    def output_limit(self) -> int | None:
        """Most tokens of an answer, None if the request does not say."""
        raise NotImplementedError

    @property
    def num_logprobs(self) -> int | None:
        """Alternatives to each token of the answer, None for no logprobs at all."""
        raise NotImplementedError

    @property
    def num_prompt_logprobs(self) -> int | None:
        return self.prompt_logprobs

    @property
    def wants_usage_chunk(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

"""What an answer must match: response_format, structured_outputs and the guided_* fields."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, Tag, field_validator, model_validator

from gllm.gateway.request.base import Schema, Tolerant, by_type, check_json
from gllm.sampling_params import MAX_GRAMMAR_BYTES

GUIDED_FIELDS: dict[str, str] = {
    "guided_json": "json",
    "guided_regex": "regex",
    "guided_choice": "choice",
    "guided_grammar": "grammar",
    # SGLang's and llama.cpp's names
    "json_schema": "json",
    "regex": "regex",
    "ebnf": "grammar",
    "grammar": "grammar",
}
"""Fields that each hold a constraint, and its kind."""

Grammar = Annotated[str, StringConstraints(min_length=1, max_length=MAX_GRAMMAR_BYTES)]
Choice = Annotated[str, StringConstraints(min_length=1, max_length=4096)]
Choices = Annotated[list[Choice], Field(min_length=1, max_length=256, fail_fast=True)]
SchemaOrText = Annotated[
    Annotated[Grammar, Tag("(text)")] | Annotated[dict[str, Any], Tag("(object)")],
    by_type("a JSON schema", {str: "(text)", dict: "(object)"}),
]
"""A JSON schema, or the text of one."""


class JsonSchemaFormat(Tolerant):
    name: str | None = None
    description: str | None = None
    strict: bool | None = None
    """Nothing to do: the output always matches the schema."""
    json_schema: dict[str, Any] = Field(alias="schema")

    @field_validator("json_schema")
    @classmethod
    def _bounded(cls, value: dict[str, Any]) -> dict[str, Any]:
        check_json(value, "schema")
        return value


class ResponseFormat(Tolerant):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None
    """With type `json_object` it is as good as with `json_schema`."""

    @model_validator(mode="before")
    @classmethod
    def _schema_beside_type(cls, data: Any) -> Any:
        """Together's and llama.cpp's form: {"type": "json_object", "schema": {...}}."""
        if isinstance(data, dict) and data.get("schema") is not None and data.get("json_schema") is None:
            return {**data, "json_schema": {"schema": data["schema"]}}
        return data

    @model_validator(mode="after")
    def _complete(self) -> ResponseFormat:
        if self.type == "json_schema" and self.json_schema is None:
            raise ValueError("type 'json_schema' needs 'json_schema'")
        return self


class StructuredOutputs(Schema):
    """vLLM's newer name for the guided_* fields; one of them."""

    json_: SchemaOrText | None = Field(default=None, alias="json")
    regex: Grammar | None = None
    choice: Choices | None = None
    grammar: Grammar | None = None
    json_object: bool | None = None
    disable_additional_properties: bool | None = None
    """Nothing to do: objects that list their properties allow no others, unless the schema says so."""
    disable_fallback: bool | None = None
    """Nothing to do: there is no second backend."""
    disable_any_whitespace: bool | None = None
    """true: no white space between the values of JSON."""

    @model_validator(mode="after")
    def _one(self) -> StructuredOutputs:
        if len(self.kinds) > 1:
            raise ValueError(f"give only one of {', '.join(self.kinds)}")
        check_json(self.json_, "json")
        return self

    @property
    def kinds(self) -> list[str]:
        """Names of the constraints given; at most one in a checked request."""
        values = {"json": self.json_, "regex": self.regex, "choice": self.choice, "grammar": self.grammar,
                  "json_object": self.json_object or None}  # fmt: skip
        return [kind for kind, value in values.items() if value is not None]

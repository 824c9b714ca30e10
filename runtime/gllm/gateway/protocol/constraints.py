"""Constraints on an answer: response_format, structured_outputs and the guided_* fields."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StringConstraints, Tag, model_validator

from gllm.gateway.protocol.schema import Schema, Tolerant, by_type, check_json
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
"""Fields that hold one constraint each, and the kind of the constraint."""

Grammar = Annotated[str, StringConstraints(min_length=1, max_length=MAX_GRAMMAR_BYTES)]
GuidedChoice = Annotated[str, StringConstraints(min_length=1, max_length=4096)]
GuidedChoices = Annotated[list[GuidedChoice], Field(min_length=1, max_length=256, fail_fast=True)]
JsonSchema = Annotated[dict[str, Any], AfterValidator(lambda value: check_json(value, "the schema"))]
SchemaOrText = Annotated[
    Annotated[Grammar, Tag("(text)")] | Annotated[JsonSchema, Tag("(object)")],
    by_type("a JSON schema", {str: "(text)", dict: "(object)"}),
]
"""A JSON schema, or the text of one."""


class JsonSchemaFormat(Tolerant):
    name: str | None = None
    description: str | None = None
    strict: bool | None = None
    """Ignored: the output always matches the schema."""
    json_schema: JsonSchema = Field(alias="schema")


class ResponseFormat(Tolerant):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None
    """Type `json_object` may have a schema, too."""
    bare_schema: JsonSchema | None = Field(default=None, alias="schema")
    """The place of the schema in requests for Together and llama.cpp: {"type": "json_object", "schema": {...}}."""

    @model_validator(mode="after")
    def _complete(self) -> ResponseFormat:
        if self.json_schema is None and self.bare_schema is not None:
            self.json_schema = JsonSchemaFormat(schema=self.bare_schema)
        if self.type == "json_schema" and self.json_schema is None:
            raise ValueError("type 'json_schema' needs 'json_schema'")
        return self


class StructuredOutputs(Schema):
    """vLLM's newer form of the guided_* fields: at most one constraint."""

    json_: SchemaOrText | None = Field(default=None, alias="json")
    regex: Grammar | None = None
    choice: GuidedChoices | None = None
    grammar: Grammar | None = None
    json_object: bool | None = None
    disable_additional_properties: bool | None = None
    """Ignored: objects that list their properties allow no others, unless the schema does."""
    disable_fallback: bool | None = None
    """Ignored: there is no second backend."""
    disable_any_whitespace: bool | None = None
    """true: JSON without white space between values."""

    @model_validator(mode="after")
    def _one(self) -> StructuredOutputs:
        if len(self.kinds) > 1:
            raise ValueError(f"give only one of {', '.join(self.kinds)}")
        return self

    @property
    def kinds(self) -> list[str]:
        """Names of the constraints given; at most one in a checked request."""
        values = {
            "json": self.json_,
            "regex": self.regex,
            "choice": self.choice,
            "grammar": self.grammar,
            "json_object": self.json_object or None,
        }
        return [kind for kind, value in values.items() if value is not None]

"""The default model as `gllm serve` loads it: tools work, although its template does not read them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from gllm.config import Config, EngineConfig
from gllm.gateway.protocol.chat_schema import ChatRequest
from gllm.gateway.request.prompt_encoding import prompts_of
from gllm.gateway.request.request_grammar import grammar_param, request_grammar
from gllm.gateway.shared.served_model import ServedModel, load_served_model
from gllm.hub.default_model import default_model_path
from gllm.sampling_params import ParameterError

TOOL: dict[str, Any] = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}
FORMAT: dict[str, Any] = {
    "type": "json_schema",
    "json_schema": {"name": "a", "schema": {"type": "object", "properties": {"b": {"type": "integer"}}}},
}


@pytest.fixture(scope="module")
def model() -> Iterator[ServedModel]:
    model = load_served_model(Config(engine=EngineConfig(model=str(default_model_path()))))
    yield model
    model.close()


def ask(**fields: Any) -> ChatRequest:
    return ChatRequest.model_validate({"messages": [{"role": "user", "content": "Hi"}], **fields})


def test_tools_are_shown_and_calls_are_parsed(model: ServedModel) -> None:
    (plain,) = prompts_of(model, ask(), 8192)
    (shown,) = prompts_of(model, ask(tools=[TOOL]), 8192)
    assert '{"name": "weather"' in shown.text
    assert len(shown.token_ids) > len(plain.token_ids)
    assert prompts_of(model, ask(tools=[TOOL], tool_choice="none"), 8192)[0].text == plain.text
    assert model.parser_of_calls(forced=False) is not None


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [TOOL]}, None),
        ({"tools": [TOOL], "tool_choice": "required"}, "tools"),
        ({"tools": [TOOL], "response_format": FORMAT}, "response_format"),
        ({"tools": [TOOL], "tool_choice": "required", "response_format": FORMAT}, "tools"),
        ({"guided_grammar": 'root ::= "a"'}, "guided_grammar"),
    ],
)
def test_grammars_compile(model: ServedModel, fields: dict[str, Any], param: str | None) -> None:
    request = ask(**fields)
    assert grammar_param(request) == param
    assert (request_grammar(model, request) is not None) == (param is not None)


def test_an_error_names_the_tool(model: ServedModel) -> None:
    wrong = {
        "type": "function",
        "function": {"name": "b", "parameters": {"properties": {"x": {"not": {"type": "null"}}}}},
    }
    with pytest.raises(ParameterError, match=r"^tools\[1\]\.function\.parameters: .*\"not\"") as caught:
        request_grammar(model, ask(tools=[TOOL, wrong], tool_choice="required"))
    assert caught.value.param == "tools[1].function.parameters"
    assert "call_" not in str(caught.value)

"""Tools, calls and results as text, for templates without tools."""

from __future__ import annotations

from typing import Any

import pytest

from gllm.sampling_params import ParameterError
from gllm.text.templates.chat_template import ChatTemplate
from gllm.text.templates.tool_prompt import ToolsInSystemText, reads_tools
from gllm.text.tokenizer import Tokenizer
from gllm.text.tool_parsers import HERMES, LLAMA, PLAIN_JSON, ToolFormat, ToolParser

TOOLS: list[dict[str, Any]] = [
    {"type": "function", "function": {"name": "weather", "description": "Tells the weath\u00e9r.",
                                      "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}},
    {"type": "function", "function": {"name": "now"}},
]  # fmt: skip
TEMPLATE = "{% for m in messages %}[{{ m['role'] }}: {{ m['content'] }}]{% endfor %}"
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Bonn"}'}}


def render(tokenizer: Tokenizer, messages: list[dict[str, Any]], form: ToolFormat = HERMES, **arguments: Any) -> str:
    return ToolsInSystemText(ChatTemplate(TEMPLATE, tokenizer), form).render(messages, **arguments)


def test_which_templates_read_tools(smollm: Tokenizer) -> None:
    assert not reads_tools(TEMPLATE)
    assert not reads_tools(smollm.chat_templates["default"])
    assert not reads_tools("")
    assert reads_tools("{% if tools is defined and tools %}{{ tools | tojson }}{% endif %}")
    assert not reads_tools("{% for tools in messages %}{{ tools.content }}{% endfor %}")


@pytest.mark.parametrize("form", [HERMES, LLAMA, PLAIN_JSON])
def test_the_model_sees_the_tools_and_how_to_call_them(smollm: Tokenizer, form: ToolFormat) -> None:
    text = render(smollm, [{"role": "user", "content": "Hi"}], form, tools=TOOLS)
    assert text.startswith("[system: ")
    assert text.endswith("[user: Hi]")
    assert '{"name": "weather", "description": "Tells the weath\u00e9r.", "parameters": {' in text
    assert '{"name": "now"}' in text
    # The example is in the format that the parser reads.
    example = text[text.index("in this form:\n") + len("in this form:\n") :].partition("\nThe result")[0]
    parser = ToolParser(form)
    calls = [call for delta in (parser.feed(example), parser.finish()) for call in delta.tool_calls]
    assert [call.name for call in calls if call.name] == ["the name of the tool"]


def test_the_clients_system_text_stays_first(smollm: Tokenizer) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    text = render(smollm, messages, tools=TOOLS)
    assert text.startswith("[system: Be brief.\n\nYou can call tools.")
    assert text.count("[system") == 1
    parts = [{"role": "system", "content": [{"type": "text", "text": "Be brief."}]}]
    assert render(smollm, parts, tools=TOOLS).startswith("[system: Be brief.\n\nYou can call tools.")


def test_a_template_without_a_system_role_gets_the_text_in_the_first_turn(smollm: Tokenizer) -> None:
    source = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + TEMPLATE
    template = ToolsInSystemText(ChatTemplate(source, smollm), HERMES)
    text = template.render([{"role": "user", "content": "Hi"}], tools=TOOLS)
    assert text.startswith("[user: You can call tools.")
    assert text.endswith("\n\nHi]")
    with pytest.raises(ParameterError, match="no system role"):
        template.render([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}], tools=TOOLS)


@pytest.mark.parametrize("tools", [TOOLS, None])
def test_history_shows_calls_and_results(smollm: Tokenizer, tools: list[dict[str, Any]] | None) -> None:
    cut_off = {**CALL, "function": {"name": "now", "arguments": '{"zone": "U'}}
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": None, "tool_calls": [CALL, cut_off]},
        {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
        {"role": "tool", "tool_call_id": "c2", "content": "noon"},
    ]
    text = render(smollm, messages, tools=tools)
    assert (
        '[assistant: <tool_call>\n{"name": "weather", "arguments": {"city": "Bonn"}}\n</tool_call>\n'
        '<tool_call>\n{"name": "now", "arguments": {"zone": "U}\n</tool_call>]'
        "[user: <tool_response>\nsunny\n</tool_response>\n<tool_response>\nnoon\n</tool_response>]"
    ) in text


def test_without_tools_nothing_changes(smollm: Tokenizer) -> None:
    messages = [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]
    assert render(smollm, messages) == "[user: a][user: b]"


def test_a_template_that_shows_calls_keeps_its_own_form(smollm: Tokenizer) -> None:
    """DeepSeek-R1's distilled models: calls in the history, but no tools."""
    source = (
        "{% for m in messages %}[{{ m.role }}: {{ m.content }}"
        "{% if m.content is none %}{% for c in m.tool_calls %}{{ '<call>' + c.function.name + c.function.arguments }}"
        "{% endfor %}{% endif %}]{% endfor %}"
    )
    template = ToolsInSystemText(ChatTemplate(source, smollm), HERMES)
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
    ]
    shown = '[user: Hi][assistant: <call>weather{"city": "Bonn"}][tool: sunny]'
    assert template.render(messages) == shown
    with_tools = template.render(messages, tools=TOOLS)
    assert with_tools.startswith("[system: You can call tools.")
    assert with_tools.endswith(shown)

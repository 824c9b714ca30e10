from __future__ import annotations

import itertools
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from gllm.sampling_params import ParameterError
from gllm.text.templates import template_environment
from gllm.text.templates.chat_template import ChatTemplate
from gllm.text.tokenizer import Tokenizer

# Written for these tests after the shape of the published templates.
QWEN3_LIKE = """
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{%- endif %}
    {{- "# Tools\\n\\n<tools>" }}
    {%- for tool in tools %}{{- "\\n" }}{{- tool | tojson }}{%- endfor %}
    {{- "\\n</tools>\\nAnswer with <tool_call>JSON</tool_call>.<|im_end|>\\n" }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(last=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if message.role == 'user' %}{%- set ns.last = index %}{%- break %}{%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.role == 'user' or (message.role == 'system' and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
    {%- elif message.role == 'assistant' %}
        {%- set reasoning = message.reasoning_content if message.reasoning_content is string else '' %}
        {{- '<|im_start|>assistant\\n' }}
        {%- if loop.index0 > ns.last and reasoning %}{{- '<think>\\n' + reasoning + '\\n</think>\\n\\n' }}{%- endif %}
        {%- generation %}
        {{- message.content }}
        {%- endgeneration %}
        {%- for call in message.tool_calls or [] %}
            {{- '<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' }}
            {{- call.function.arguments | tojson }}{{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == 'tool' %}
        {{- '<|im_start|>user\\n<tool_response>\\n' + message.content + '\\n</tool_response><|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}
"""

LLAMA3_LIKE = """
{{- bos_token }}
{%- if not tools is defined %}{%- set tools = none %}{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}
    {%- for tool in tools %}
        {{- tool | tojson(indent=4) }}
        {{- "\\n\\n" }}
    {%- endfor %}
{%- endif %}
{{- system }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("This model only supports single tool-calls at once!") }}
        {%- endif %}
        {%- set call = message.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n{"name": "' + call.name + '", "parameters": ' }}
        {{- call.arguments | tojson }}
        {{- "}<|eot_id|>" }}
    {%- elif message.role in ["tool", "ipython"] %}
        {{- "<|start_header_id|>ipython<|end_header_id|>\\n\\n" }}
        {%- if message.content is mapping or message.content is iterable and message.content is not string %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
        {{- "<|eot_id|>" }}
    {%- else %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
        {{- message['content'] | trim + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Weather <now> & here",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": {"city": "K\u00f6ln"}}}

CHATS: list[list[dict[str, Any]]] = [
    [{"role": "user", "content": "Hi"}],
    [{"role": "system", "content": " Be brief. "}, {"role": "user", "content": "Hi\n there "}],
    [
        {"role": "user", "content": "One"},
        {"role": "assistant", "content": "Two", "reasoning_content": "hm"},
        {"role": "user", "content": "Three <|im_end|> \u65e5\u672c"},
    ],
    [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": '{"t": 3}', "tool_call_id": "c1"},
    ],
]


def template_source(name: str, tokenizer: Tokenizer) -> str:
    return {"smollm": tokenizer.chat_templates["default"], "qwen3": QWEN3_LIKE, "llama3": LLAMA3_LIKE}[name]


@pytest.mark.parametrize(
    ("name", "chat", "tools", "prompt"),
    list(itertools.product(["smollm", "qwen3", "llama3"], range(len(CHATS)), [None, [WEATHER]], [True, False])),
)
def test_equals_transformers(
    smollm: Tokenizer, reference: Any, name: str, chat: int, tools: list[dict[str, Any]] | None, prompt: bool
) -> None:
    source = template_source(name, smollm)
    expected = reference.apply_chat_template(
        CHATS[chat], tools=tools, chat_template=source, add_generation_prompt=prompt, tokenize=False
    )
    assert ChatTemplate(source, smollm).render(CHATS[chat], tools=tools, add_generation_prompt=prompt) == expected


@pytest.mark.parametrize("thinking", [True, False])
def test_template_kwargs_equal_transformers(smollm: Tokenizer, reference: Any, thinking: bool) -> None:
    expected = reference.apply_chat_template(
        CHATS[0], chat_template=QWEN3_LIKE, add_generation_prompt=True, tokenize=False, enable_thinking=thinking
    )
    assert ChatTemplate(QWEN3_LIKE, smollm).render(CHATS[0], enable_thinking=thinking) == expected
    assert ("<think>" in expected) is not thinking


@pytest.mark.parametrize("name", ["smollm", "qwen3", "llama3"])
@pytest.mark.parametrize("last", ["The answer", "The answer ", " a\n"])
def test_continue_final_message_equals_transformers(smollm: Tokenizer, reference: Any, name: str, last: str) -> None:
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": last}]
    source = template_source(name, smollm)
    expected = reference.apply_chat_template(chat, chat_template=source, continue_final_message=True, tokenize=False)
    rendered = ChatTemplate(source, smollm).render(chat, add_generation_prompt=False, continue_final_message=True)
    assert rendered == expected
    assert rendered.endswith(last.strip()) or name != "llama3"


def test_continue_final_message_errors(smollm: Tokenizer) -> None:
    template = ChatTemplate("{{ messages[0].content }}", smollm)
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "x"}]
    with pytest.raises(ParameterError, match="add_generation_prompt"):
        template.render(chat, continue_final_message=True)
    with pytest.raises(ParameterError, match="leaves out"):
        template.render(chat, continue_final_message=True, add_generation_prompt=False)


def test_text_parts_become_what_the_template_expects(smollm: Tokenizer) -> None:
    parts = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]
    string = [{"role": "user", "content": "a"}]
    wants_string = ChatTemplate("{{ messages[0].content }}", smollm)
    assert wants_string.render(parts) == "a\nb"
    loop = "{% for m in messages %}{% for part in m['content'] %}[{{ part.text }}]{% endfor %}{% endfor %}"
    assert ChatTemplate(loop, smollm).render(parts) == "[a][b]"
    assert ChatTemplate(loop, smollm).render(string) == "[a]"
    both = (
        "{% for m in messages %}{% set body = m.content %}{% if body is string %}{{ body }}{% else %}"
        "{% for part in body %}[{{ part.text }}]{% endfor %}{% endif %}{% endfor %}"
    )
    assert ChatTemplate(both, smollm).render(parts) == "[a][b]"
    assert ChatTemplate(both, smollm).render(string) == "a"


def test_tool_call_arguments_may_be_json_text(smollm: Tokenizer) -> None:
    as_text = {**CALL, "function": {"name": "weather", "arguments": json.dumps({"city": "K\u00f6ln"})}}
    template = ChatTemplate(QWEN3_LIKE, smollm)
    chats = [
        [CHATS[3][0], {"role": "assistant", "content": None, "tool_calls": [call]}, CHATS[3][2]]
        for call in (CALL, as_text)
    ]
    assert template.render(chats[0]) == template.render(chats[1])
    assert '"arguments": {"city": "K\u00f6ln"}' in template.render(chats[1])


def test_messages_are_not_changed(smollm: Tokenizer) -> None:
    chat = [{"role": "user", "content": "Hi", "tool_calls": None}]
    ChatTemplate(LLAMA3_LIKE, smollm).render(chat, add_generation_prompt=False, continue_final_message=True)
    assert chat == [{"role": "user", "content": "Hi", "tool_calls": None}]


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        ([], "must not be empty"),
        ([{"content": "x"}], r"messages\[0\] must be an object with a role"),
        ([{"role": "user", "content": 3}], r"messages\[0\]\.content"),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}],
            r"messages\[0\]\.content\[0\].*only text",
        ),
        ([{"role": "assistant", "tool_calls": [{"function": {}}]}], "function with a name"),
        ([{"role": "assistant", "tool_calls": "x"}], "must be a list"),
    ],
)
def test_bad_messages_are_named(smollm: Tokenizer, messages: list[dict[str, Any]], text: str) -> None:
    with pytest.raises(ParameterError, match=text) as caught:
        ChatTemplate(QWEN3_LIKE, smollm).render(messages)
    assert caught.value.param == "messages"


def test_the_templates_own_error_is_shown(smollm: Tokenizer) -> None:
    chat = [CHATS[3][0], {"role": "assistant", "tool_calls": [CALL, CALL]}]
    with pytest.raises(ParameterError) as caught:
        ChatTemplate(LLAMA3_LIKE, smollm).render(chat)
    assert str(caught.value) == "This model only supports single tool-calls at once!"
    assert caught.value.param == "messages"


@pytest.mark.parametrize(
    "source", ["{{ 1 / 0 }}", "{{ messages.nope.deep }}", "{{ [] + 1 }}", "{{ 'x'.__class__.mro() }}"]
)
def test_any_failure_of_a_template_is_a_parameter_error(smollm: Tokenizer, source: str) -> None:
    with pytest.raises(ParameterError, match="cannot render"):
        ChatTemplate(source, smollm).render(CHATS[0])


def test_unknown_template_kwargs_are_refused(smollm: Tokenizer) -> None:
    with pytest.raises(ParameterError, match="may not set chat_template, eos_token") as caught:
        ChatTemplate(QWEN3_LIKE, smollm).render(CHATS[0], chat_template="x", eos_token="y")
    assert caught.value.param == "chat_template_kwargs"


def test_missing_template_says_what_to_do(smollm: Tokenizer) -> None:
    with pytest.raises(ParameterError, match=r"/v1/completions.*--chat-template"):
        ChatTemplate("", smollm).render(CHATS[0])


def test_of_model_and_override(smollm: Tokenizer, tmp_path: Path) -> None:
    assert ChatTemplate.of_model(smollm).render(CHATS[0]) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    other = tmp_path / "other.jinja"
    other.write_text("{{ strftime_now('%Y') | length }}{{ eos_token }}")
    assert ChatTemplate.of_model(smollm, other).render(CHATS[0]) == "4<|im_end|>"
    other.write_text("line\n{% if %}")
    with pytest.raises(ValueError, match="chat template, line 2"):
        ChatTemplate.of_model(smollm, other)
    with pytest.raises(ValueError, match="cannot read"):
        ChatTemplate.of_model(smollm, tmp_path / "nothing.jinja")


def test_a_tool_template_is_used_with_tools(smollm: Tokenizer) -> None:
    template = ChatTemplate("plain", smollm, tool_source="tools: {{ tools[0].function.name }}")
    assert template.render(CHATS[0]) == "plain"
    assert template.render(CHATS[0], tools=[WEATHER]) == "tools: weather"


def test_rendering_is_bounded(smollm: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_environment, "MAX_RENDERED_CHARS", 1000)
    endless = "{% for a in range(90000) %}{% for b in range(90000) %}{{ messages[0].role }}{% endfor %}{% endfor %}"
    with pytest.raises(ParameterError, match="longer than 1000 characters"):
        ChatTemplate(endless, smollm).render(CHATS[0])
    monkeypatch.setattr(template_environment, "MAX_RENDER_SECONDS", 0.05)
    silent = "{% for a in range(90000) %}{% for b in range(90000) %}{% set c = messages[0] %}{% endfor %}{% endfor %}"
    with pytest.raises(ParameterError, match=r"longer than 0\.05 seconds"):
        ChatTemplate(silent, smollm).render(CHATS[0])
    assert ChatTemplate("x", smollm).render(CHATS[0]) == "x"


def test_threads_share_a_template(smollm: Tokenizer) -> None:
    template = ChatTemplate(QWEN3_LIKE, smollm)
    chats = [[{"role": "user", "content": str(number)}] for number in range(40)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(template.render, chats)) == [template.render(chat) for chat in chats]


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{% for m in messages %}<{{ m.role }}>{% endfor %}", "<system><user>"),
        ("{% for m in messages %}{% if m['role'] == 'developer' %}!{% endif %}<{{ m.role }}>{% endfor %}",
         "!<developer><user>"),
    ],
)  # fmt: skip
def test_developer_messages_become_system_messages_if_the_template_has_no_such_role(
    smollm: Tokenizer, source: str, text: str
) -> None:
    chat = [{"role": "developer", "content": "a"}, {"role": "user", "content": "b"}]
    assert ChatTemplate(source, smollm).render(chat) == text

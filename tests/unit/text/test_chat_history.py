"""Calls, results and missing contents of a chat history, as different templates read them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from gllm.text.templates.chat_template import ChatTemplate
from gllm.text.tokenizer import Tokenizer

Messages = list[dict[str, Any]]

# Small templates of the kinds that published ones are.
R1_LIKE = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ '<U>' + m['content'] }}{% endif %}"
    "{% if m['role'] == 'assistant' and m['content'] is none %}{% for c in m['tool_calls'] %}"
    "{{ '<A><call>' + c['type'] + '<sep>' + c['function']['name'] + '\n' + c['function']['arguments'] + '\n' }}"
    "{% endfor %}{% endif %}"
    "{% if m['role'] == 'assistant' and m.content is not none %}{{ '<A>' + m['content'].split('</t>')[-1] }}{% endif %}"
    "{% if m['role'] == 'tool' %}{{ '<out>' + m['content'] }}{% endif %}{% endfor %}"
)
CALLS = "{% for m in messages %}{{ m.role }}:{{ m.content }}|{% for c in m.tool_calls or [] %}{{ c.function.name }}"
END = "{% endfor %};{% endfor %}"
TOJSON = CALLS + "{{ c.function.arguments | tojson }}" + END
PRINTS = CALLS + "{{ c.function.arguments }}" + END
ADDS = CALLS + "{{ '(' + c.function.arguments + ')' }}{{ c.function.arguments ~ '!' }}" + END
ITEMS = CALLS + "{% for k, v in c.function.arguments.items() %}[{{ k }}={{ v }}]{% endfor %}" + END
PIPE_ITEMS = CALLS + "{% for k, v in c.function.arguments | items %}[{{ k }}={{ v }}]{% endfor %}" + END
KEYS = CALLS + "{% for k in c.function.arguments %}[{{ k }}={{ c.function.arguments[k] }}]{% endfor %}" + END
STRING = (
    CALLS + "{% if c.function.arguments is string %}S{{ c.function.arguments }}"
    "{% else %}{{ c.function.arguments | tojson }}{% endif %}" + END
)
MAPPING = (
    CALLS + "{% if c.function.arguments is mapping %}M{{ c.function.arguments | tojson }}"
    "{% else %}{{ c.function.arguments }}{% endif %}" + END
)
ALL = [R1_LIKE, TOJSON, PRINTS, ADDS, ITEMS, PIPE_ITEMS, KEYS, STRING, MAPPING]

TEXT = '{"city":  "K\u00f6ln", "text": 1}'


def history(arguments: Any, content: str | None = None) -> Messages:
    return [
        {"role": "user", "content": "Hi"},
        {
            "role": "assistant",
            "content": content,
            "tool_calls": [{"id": "c", "type": "function", "function": {"name": "weather", "arguments": arguments}}],
        },
        {"role": "tool", "tool_call_id": "c", "content": "20"},
    ]


def by_transformers(source: str, messages: Messages) -> str:
    return str(render_jinja_template([messages], chat_template=source)[0][0])


@pytest.mark.parametrize("source", [R1_LIKE, PRINTS, ADDS])
@pytest.mark.parametrize("content", [None, "", "Let me see."])
def test_templates_for_text_render_as_in_transformers(smollm: Tokenizer, source: str, content: str | None) -> None:
    ours = ChatTemplate(source, smollm).render(history(TEXT, content), add_generation_prompt=False)
    if source is R1_LIKE and content is not None:
        # Transformers leaves the call out.
        assert "weather" not in by_transformers(source, history(TEXT, content))
        expected = by_transformers(source, history(TEXT))
        assert ours == (expected if not content else expected.replace("<A>", "<A>Let me see.<A>"))
    else:
        assert ours == by_transformers(source, history(TEXT, content)).replace("assistant:None", "assistant:")


@pytest.mark.parametrize("source", [TOJSON, ITEMS, PIPE_ITEMS, KEYS, STRING, MAPPING])
@pytest.mark.parametrize("arguments", [TEXT, json.loads(TEXT)])
def test_templates_for_objects_render_as_in_transformers(smollm: Tokenizer, source: str, arguments: Any) -> None:
    ours = ChatTemplate(source, smollm).render(history(arguments, "so"), add_generation_prompt=False)
    assert ours == by_transformers(source, history(json.loads(TEXT), "so"))


@pytest.mark.parametrize("raw", ['{"city": "Par', "[1]", '"x"', "7", "[" * 100000, '{"a": ' + "9" * 5000])
def test_arguments_that_are_not_an_object_are_shown_unchanged(smollm: Tokenizer, raw: str) -> None:
    shown = {source: str(ChatTemplate(source, smollm).render(history(raw))) for source in ALL}
    for source in (R1_LIKE, PRINTS, ADDS):
        assert raw in shown[source]
    assert "S" + raw in shown[STRING]
    for source in (ITEMS, PIPE_ITEMS, KEYS):
        assert f"weather[raw={raw}]" in shown[source]
    for source in (TOJSON, MAPPING):
        assert json.dumps({"raw": raw}) in shown[source]


@pytest.mark.parametrize("raw", ["", "  ", "null", None, "{}"])
def test_no_arguments_are_an_empty_object(smollm: Tokenizer, raw: str | None) -> None:
    for source in ALL:
        assert "weather" in ChatTemplate(source, smollm).render(history(raw))
    assert "weather{}" in ChatTemplate(TOJSON, smollm).render(history(raw))
    assert "weather;" in ChatTemplate(ITEMS, smollm).render(history(raw))


def test_arguments_given_as_another_value(smollm: Tokenizer) -> None:
    assert 'weather{"raw": "[1, 2]"}' in ChatTemplate(TOJSON, smollm).render(history([1, 2]))
    assert 'weather{"a": "\u00e9"}' in ChatTemplate(PRINTS, smollm).render(history({"a": "\u00e9"}))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ messages[0].content is none }}", "True"),
        ("{{ messages[0].content == none }},{{ messages[0].content != none }}", "True,False"),
        ("{{ messages[0]['content'] is not none and messages[0].content }}", "False"),
        ("[{{ messages[0].content }}]", "[]"),
        ("{{ '<' + messages[0].content + '>' }}{{ messages[0].content | trim | length }}", "<>0"),
        ("{{ messages[0].content.split('x')[-1] }}{{ '</think>' in messages[0].content }}", "False"),
        ("{% if messages[0].content is string %}s{% else %}{{ messages[0].content[0].text }}{% endif %}", "s"),
        ("{{ messages[0].content == '' }}{{ 'content' in messages[0] }}", "TrueTrue"),
    ],
)
@pytest.mark.parametrize("message", [{"role": "assistant"}, {"role": "assistant", "content": None}])
def test_an_absent_content(smollm: Tokenizer, source: str, expected: str, message: dict[str, Any]) -> None:
    assert ChatTemplate(source, smollm).render([message]) == expected


def test_an_empty_content_is_not_none(smollm: Tokenizer) -> None:
    template = ChatTemplate("{{ messages[0].content is none }}{{ messages[0].content == none }}", smollm)
    assert template.render([{"role": "user", "content": ""}]) == "FalseFalse"


def test_calls_are_separated_from_text_only_for_templates_that_hide_them(smollm: Tokenizer) -> None:
    template = ChatTemplate("{% for m in messages %}{{ m.role }}{{ m.tool_calls | length }};{% endfor %}", smollm)
    assert template.render(history("{}", "text")) == "user0;assistant1;tool0;"


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
@pytest.mark.parametrize("given", ["reasoning_content", "reasoning", "thinking"])
def test_reasoning_has_the_key_that_the_template_reads(smollm: Tokenizer, key: str, given: str) -> None:
    chat = [{"role": "assistant", "content": "a", given: "because"}]
    assert ChatTemplate("{{ messages[0]." + key + " }}", smollm).render(chat) == "because"
    assert ChatTemplate("{{ messages[0]['" + key + "'] }}", smollm).render(chat) == "because"


def test_unknown_roles_and_keys_reach_the_template(smollm: Tokenizer) -> None:
    template = ChatTemplate("{% for m in messages %}{{ m.role }}{{ m.extra }}{{ m.content }};{% endfor %}", smollm)
    assert template.render([{"role": "critic", "content": "no", "extra": "!"}, {"role": "tool"}]) == "critic!no;tool;"


def test_special_tokens_by_every_name(smollm: Tokenizer) -> None:
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "image_token": "<image>"}
    tokenizer = Tokenizer(smollm._backend, bos_token="<|im_start|>", eos_token="<|im_end|>", named_tokens=names)
    source = "{{ bos_token }}{{ eos_token }}{{ pad_token }}{{ unk_token }}{{ image_token }}{{ sep_token }}"
    rendered = ChatTemplate(source, tokenizer).render([{"role": "user", "content": ""}])
    assert rendered == "<|im_start|><|im_end|><pad><unk><image>"


MISTRAL_LIKE = (
    "{% for m in messages %}{% for c in m.tool_calls or [] %}"
    "{% if c.id is not defined or c.id|length != 9 %}{{ raise_exception('Tool call IDs have length 9!') }}{% endif %}"
    "{{ c.id }},{% endfor %}{{ m.tool_call_id }}{% endfor %}"
)


def test_call_ids_fit_mistrals_templates(smollm: Tokenizer) -> None:
    messages = history("{}")
    messages[1]["tool_calls"][0]["id"] = messages[2]["tool_call_id"] = "call_0123456789abcdef01234567"
    called, answered = ChatTemplate(MISTRAL_LIKE, smollm).render(messages).split(",")
    assert called == answered
    assert len(called) == 9
    assert called.isalnum()
    assert messages[1]["tool_calls"][0]["id"] == "call_0123456789abcdef01234567"
    messages[1]["tool_calls"][0]["id"] = messages[2]["tool_call_id"] = "AbC123456"
    assert ChatTemplate(MISTRAL_LIKE, smollm).render(messages) == "AbC123456,AbC123456"
    other = MISTRAL_LIKE.replace("!= 9", "< 1")
    messages[2]["tool_call_id"] = "call_1"
    assert ChatTemplate(other, smollm).render(messages) == "AbC123456,call_1"

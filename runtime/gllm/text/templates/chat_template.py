"""Renders chat messages to the text of a prompt, with the model's Jinja template.

transformers renders templates too, but it imports torch (see `gllm.text.tokenizer`) and does not limit the time that a
template takes on the messages of a client.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jinja2

from gllm.sampling_params import ParameterError
from gllm.text.templates.chat_messages import (
    TemplateTraits,
    calls_apart,
    has_text_and_calls,
    normalise_messages,
    parse_template,
    template_traits,
)
from gllm.text.templates.literal_text import RenderedPrompt, unmark
from gllm.text.templates.template_environment import RaisedByTemplate, TemplateEnvironment

if TYPE_CHECKING:
    from gllm.text.tokenizer import Tokenizer

RESERVED_KWARGS = frozenset(
    {
        "messages",
        "tools",
        "add_generation_prompt",
        "continue_final_message",
        "chat_template",
        "tokenize",
        "bos_token",
        "eos_token",
    }
)
"""Names that `chat_template_kwargs` of a request may not set: arguments of `render`, and values of the model."""


def check_template_kwargs(names: Iterable[str]) -> None:
    """Raise ParameterError for a reserved name. Names that the template does not read have no effect."""
    reserved = sorted(RESERVED_KWARGS.intersection(names))
    if reserved:
        raise ParameterError("chat_template_kwargs", f"chat_template_kwargs may not set {', '.join(reserved)}")


_PROBE = "probe_of_tool_calls"
_CALLING: dict[str, Any] = {
    "role": "assistant",
    "tool_calls": [{"id": "call00001", "type": "function", "function": {"name": _PROBE, "arguments": "{}"}}],
}
_RESULT: dict[str, Any] = {"role": "tool", "tool_call_id": "call00001", "name": "tool", "content": "result"}

# A message is unlikely to contain this mark. If its trailing space is gone later, the template trims messages.
_CONTINUE_MARK = "\ue000continue-from-here\ue000 "


class _Compiled(NamedTuple):
    code: jinja2.Template
    traits: TemplateTraits


class ChatTemplate:
    """A compiled template. Threads may share one.

    Hostile messages may take long to render (see `TemplateEnvironment` for the limits): servers call `render` in a
    thread.

    Args:
        source: the Jinja text; if it is empty, `render` raises.
        tool_source: replaces `source` if a request has tools.
        allow_special_tokens: a special token that a message spells is that token; otherwise it is text.
    """

    def __init__(
        self, source: str, tokenizer: Tokenizer, *, tool_source: str = "", allow_special_tokens: bool = False
    ) -> None:
        self.source = source
        self.tool_source = tool_source or source
        self._environment = TemplateEnvironment()
        self._special_tokens = tokenizer.named_tokens
        self._spellings = None if allow_special_tokens else tokenizer.special_spellings
        self._main = self._compile(self.source)
        self._with_tools = self._main if self.tool_source == source else self._compile(self.tool_source)

    @classmethod
    def of_model(
        cls, tokenizer: Tokenizer, override: Path | str = "", *, allow_special_tokens: bool = False
    ) -> ChatTemplate:
        """Return the model's template, or the one in the file `override` (`--chat-template`). Raises ValueError."""
        if override:
            try:
                source = Path(override).read_text(encoding="utf-8")
            except OSError as error:
                raise ValueError(f"chat_template: cannot read {override}: {error.strerror}") from error
            return cls(source, tokenizer, allow_special_tokens=allow_special_tokens)
        templates = tokenizer.chat_templates
        return cls(
            templates.get("default", ""),
            tokenizer,
            tool_source=templates.get("tool_use", ""),
            allow_special_tokens=allow_special_tokens,
        )

    def render(
        self,
        messages: list[dict[str, Any]],
        /,
        *,
        tools: list[dict[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        **template_kwargs: Any,
    ) -> RenderedPrompt:
        """Return the prompt. The template writes BOS if the model needs it: encode with `add_special_tokens=False`.

        continue_final_message: the prompt ends inside the last message, which the model continues.
        template_kwargs: variables of the template; others have no effect. Raises ParameterError.
        """
        check_template_kwargs(template_kwargs)
        compiled = self._with_tools if tools else self._main
        if compiled is None:
            raise ParameterError(
                "messages",
                "this model has no chat template: use /v1/completions, or start the server with --chat-template FILE",
            )
        chat = normalise_messages(messages, compiled.traits)
        if any(map(has_text_and_calls, chat)) and self._hides_calls_beside_text(compiled, tools):
            chat = calls_apart(chat)
        given = {name: value for name, value in template_kwargs.items() if name not in self._environment.globals}
        given |= {"messages": chat, "tools": tools or None, "add_generation_prompt": add_generation_prompt}
        if self._spellings is not None:
            given = self._spellings.mark(given)
        if continue_final_message:
            if add_generation_prompt:
                raise ParameterError(
                    "continue_final_message", "continue_final_message needs add_generation_prompt set to false"
                )
            _mark_end(given["messages"][-1])
        try:
            text = self._fill(compiled, given)
        except RaisedByTemplate as error:
            raise ParameterError("messages", unmark(str(error))) from error
        except Exception as error:  # a template is a program that runs on data of clients: it may raise anything
            reason = unmark(str(error))
            raise ParameterError("messages", f"the chat template cannot render these messages: {reason}") from error
        return unmark(_cut_at_mark(text) if continue_final_message else text)

    def _fill(self, compiled: _Compiled, given: dict[str, Any]) -> str:
        return self._environment.render_bounded(compiled.code, {"documents": None, **self._special_tokens, **given})

    @cached_property
    def shows_calls(self) -> bool:
        """Whether the template shows the tool calls of a history."""
        return self._main is not None and self._shows_call(self._main, None, tools=None)

    def _hides_calls_beside_text(self, compiled: _Compiled, tools: list[dict[str, Any]] | None) -> bool:
        """Whether the template shows a tool call only in a message without text, as DeepSeek-R1's does."""
        return self._shows_call(compiled, None, tools) and not self._shows_call(compiled, "text", tools)

    def _shows_call(self, compiled: _Compiled, content: str | None, tools: list[dict[str, Any]] | None) -> bool:
        chat = [{"role": "user", "content": "question"}, {**_CALLING, "content": content}, _RESULT]
        messages = normalise_messages(chat, compiled.traits)
        try:
            return _PROBE in self._fill(compiled, {"messages": messages, "tools": tools})
        except Exception:  # see `render`
            return False

    def _compile(self, source: str) -> _Compiled | None:
        if not source:
            return None
        tree = parse_template(self._environment, source)
        return _Compiled(self._environment.from_string(tree), template_traits(tree))


def _mark_end(message: dict[str, Any]) -> None:
    content = message["content"]
    if isinstance(content, str):
        message["content"] = content + _CONTINUE_MARK
    elif content:
        content[-1]["text"] += _CONTINUE_MARK
    else:
        raise ParameterError("continue_final_message", "the final message has no text to continue")


def _cut_at_mark(text: str) -> str:
    position = text.rfind(_CONTINUE_MARK.rstrip())
    if position < 0:
        raise ParameterError("continue_final_message", "the chat template leaves out the final message")
    trimmed = not text.startswith(_CONTINUE_MARK, position)
    return text[:position].rstrip() if trimmed else text[:position]

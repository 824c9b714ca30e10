"""The Jinja sandbox of chat templates: the functions that Hugging Face templates expect, and a time limit."""

from __future__ import annotations

import json
import threading
import time
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from gllm.text.templates.template_values import is_none, is_string

MAX_RENDER_SECONDS = 5.0
MAX_RENDERED_CHARS = 16 * 1024 * 1024


class RaisedByTemplate(jinja2.TemplateError):
    """The template called `raise_exception`."""


class RenderLimitError(jinja2.TemplateError):
    """Rendering took too long or produced too much text."""


class TemplateEnvironment(ImmutableSandboxedEnvironment):
    """Sandbox with `raise_exception`, `strftime_now`, HF's `tojson`, `break`/`continue` and an inert `generation` tag.

    The time is checked at each lookup in a value and at each piece of output. The limit of `range` in the sandbox
    bounds a template that loops without either. Several threads may render at once.
    """

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols])
        self._clock = threading.local()
        self.filters["tojson"] = _tojson
        self.tests["none"] = is_none
        self.tests["string"] = is_string
        self.globals["raise_exception"] = _raise_exception
        self.globals["strftime_now"] = _strftime_now

    def getattr(self, obj: Any, attribute: str) -> Any:
        self._check_time()
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        self._check_time()
        return super().getitem(obj, argument)

    def render_bounded(self, template: jinja2.Template, variables: dict[str, Any]) -> str:
        """Return the rendered text. Raises RenderLimitError beyond MAX_RENDER_SECONDS or MAX_RENDERED_CHARS."""
        self._clock.deadline = time.monotonic() + MAX_RENDER_SECONDS
        pieces, size = [], 0
        try:
            for piece in template.generate(variables):
                self._check_time()
                size += len(piece)
                if size > MAX_RENDERED_CHARS:
                    raise RenderLimitError(f"the rendered prompt is longer than {MAX_RENDERED_CHARS} characters")
                pieces.append(piece)
        finally:
            self._clock.deadline = None
        return "".join(pieces)

    def _check_time(self) -> None:
        deadline = getattr(self._clock, "deadline", None)
        if deadline is not None and time.monotonic() > deadline:
            raise RenderLimitError(f"rendering took longer than {MAX_RENDER_SECONDS:g} seconds")


class _GenerationTag(Extension):
    """`{% generation %}...{% endgeneration %}` marks assistant text for training; here it has no effect."""

    tags = {"generation"}  # noqa: RUF012  # jinja2 declares it as an instance attribute

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)


def _raise_exception(message: str) -> NoReturn:
    raise RaisedByTemplate(message)


def _strftime_now(layout: str) -> str:
    return datetime.now().strftime(layout)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Return plain JSON. Jinja's own filter escapes HTML, and models were not trained on that."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

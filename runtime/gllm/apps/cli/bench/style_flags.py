"""The flags that say which server is asked, and how."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gllm.apps.bench.payload import PATHS, Api, Style
from gllm.apps.bench.prompt_writer import Counter
from gllm.apps.cli.json_object import parse_json_object
from gllm.config import ModelSource

if TYPE_CHECKING:
    from gllm.apps.bench.datasets.load import Dataset


def _option(*names: str, help: str, **settings: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel="Server", **settings)


def parse_pairs(flag: str, pairs: Sequence[str] | None) -> dict[str, str]:
    """Parse ["a=1", "b=2"]. Raises ValueError, which names the flag."""
    found = {}
    for pair in pairs or ():
        name, equals, value = pair.partition("=")
        if not name or not equals or "\n" in pair or "\r" in pair:
            raise ValueError(f"{flag} must look like NAME=VALUE, not {pair!r}")
        found[name] = value
    return found


def parse_api(text: str) -> Api:
    """Return the endpoint for its name or its path, as vLLM writes it. Raises ValueError."""
    for name, path in PATHS.items():
        if text in (name, path):
            return name
    raise ValueError(f"--endpoint must be one of {', '.join(PATHS)}, or its path; not {text!r}")


@dataclass(frozen=True, kw_only=True)
class StyleFlags:
    """The server and the fields of every request."""

    url: Annotated[str, _option("--url", "--base-url", help="The server.")] = "http://127.0.0.1:8000"
    model: Annotated[str, _option("--model", help="A model's name.", show_default="the server's first")] = ""
    api_key: Annotated[str, _option("--api-key", envvar="OPENAI_API_KEY", help="Bearer token.")] = ""
    endpoint: Annotated[str, _option("--endpoint", help="completions, chat or responses.")] = "completions"
    tokenizer: Annotated[
        str,
        _option(
            "--tokenizer",
            help="The model's folder, GGUF file or name on the hub: prompts are text of exact lengths.",
            show_default=False,
        ),
    ] = ""
    text: Annotated[
        bool,
        _option(
            "--text",
            help="Drawn prompts are English words, not token ids; so they are with --tokenizer, chat and responses.",
        ),
    ] = False
    ignore_eos: Annotated[
        bool, _option("--ignore-eos/--no-ignore-eos", help="Generate every token that the request asks for.")
    ] = True
    temperature: Annotated[float | None, _option("--temperature", min=0.0, help="0 is greedy.")] = 0.0
    extra_body: Annotated[
        str, _option("--extra-body", help="JSON object of more fields for every request; null removes a field.")
    ] = ""
    header: Annotated[
        list[str] | None, _option("--header", help="NAME=VALUE, a header of every request; repeatable.")
    ] = None
    vocab_size: Annotated[
        int | None,
        _option("--vocab-size", min=8, help="Prompts are random token ids in 1000..32000, below this bound."),
    ] = None
    max_model_len: Annotated[
        int | None, _option("--max-model-len", min=8, help="Clip requests to it.", show_default="as /v1/models says")
    ] = None
    timeout: Annotated[float, _option("--timeout", min=0.1, help="Seconds a request may take.")] = 3600.0

    def style(self) -> Style:
        """Return the fields of every request. Raises ValueError, which names the flag."""
        return Style(
            api=parse_api(self.endpoint),
            ignore_eos=self.ignore_eos,
            temperature=self.temperature,
            extra_body=parse_json_object("--extra-body", self.extra_body),
            headers=parse_pairs("--header", self.header),
        )

    def sends_text(self, dataset: Dataset) -> bool:
        """Whether drawn prompts are text."""
        text = self.text or bool(self.tokenizer) or parse_api(self.endpoint) != "completions"
        return text or dataset.name == "multi-turn"

    def counter(self) -> Counter | None:
        """Return what counts the tokens of a text; None without --tokenizer. Raises ValueError."""
        if not self.tokenizer:
            return None
        from gllm.hub.locate import locate
        from gllm.text.tokenizer import load_tokenizer

        try:
            path = Path(self.tokenizer).expanduser()
            if not (path / "tokenizer.json").is_file():
                path, _ = locate(
                    self.tokenizer,
                    ModelSource(),
                    weights=False,
                    report=lambda line: typer.echo(f"gllm: {line}", err=True),
                )
            tokenizer = load_tokenizer(path)
        except ValueError as error:
            raise ValueError(f"--tokenizer {self.tokenizer}: {error}") from None
        return lambda text: len(tokenizer.encode(text, add_special_tokens=False))

"""The flags that the commands of `gllm eval` share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from gllm.apps.cli.json_object import parse_json_object
from gllm.apps.eval.client import EvalClient
from gllm.apps.eval.task import EndpointName

ShotsOption = Annotated[int, typer.Option("--shots", min=0, help="Worked examples in a prompt.")]
MaxTokensOption = Annotated[int, typer.Option("--max-tokens", min=1, help="Tokens of an answer.")]


@dataclass(frozen=True, kw_only=True)
class ServerFlags:
    """Which server and model are asked, and how fast."""

    url: Annotated[str, typer.Option("--url", "--base-url", help="The server.")] = "http://127.0.0.1:8000"
    model: Annotated[str, typer.Option("--model", help="A model's name.", show_default="the server's first")] = ""
    api_key: Annotated[str, typer.Option("--api-key", envvar="OPENAI_API_KEY", help="Bearer token.")] = ""
    concurrency: Annotated[int, typer.Option("--concurrency", min=1, help="Requests in flight.")] = 32
    timeout: Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds a request may take.")] = 3600.0

    def client(self) -> EvalClient:
        """Raises ValueError for a URL that is none."""
        return EvalClient(self.url, api_key=self.api_key, timeout=self.timeout, connections=self.concurrency)


@dataclass(frozen=True, kw_only=True)
class RunFlags:
    """What a benchmark asks, and where its answers go."""

    data: Annotated[
        str, typer.Option("--data", help="File or folder, or a name on the hub.", show_default="the published data set")
    ] = ""
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Only the first questions, of each subject if there are any.")
    ] = None
    endpoint: Annotated[
        EndpointName, typer.Option("--endpoint", help="chat: for tuned models; completions: for base models.")
    ] = "chat"
    temperature: Annotated[float, typer.Option("--temperature", min=0.0, help="0 is greedy.")] = 0.0
    extra_body: Annotated[
        str,
        typer.Option(
            "--extra-body",
            help="JSON object of more fields for every request, such as "
            '{"chat_template_kwargs": {"enable_thinking": false}}.',
        ),
    ] = ""
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder.", show_default="eval/TASK/MODEL")] = (
        None
    )
    plot: Annotated[bool, typer.Option("--plot", help="Also plot; needs matplotlib (the extra `plots`).")] = False

    def fields(self, max_tokens: int) -> dict[str, Any]:
        """Return the sampling fields of every request. Raises ValueError, which names the flag."""
        more = parse_json_object("--extra-body", self.extra_body)
        return {"temperature": self.temperature, "max_tokens": max_tokens, **more}

"""The flags that all commands of `gllm eval TASK` have, as one dataclass."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from gllm.apps.eval.task import EndpointName

UrlOption = Annotated[str, typer.Option("--url", help="The server.")]
ModelOption = Annotated[str, typer.Option("--model", help="A model's name; without it the server's first.")]
ApiKeyOption = Annotated[str, typer.Option("--api-key", envvar="OPENAI_API_KEY", help="Bearer token.")]
ShotsOption = Annotated[int, typer.Option("--shots", min=0, help="Worked examples in a prompt.")]
MaxTokensOption = Annotated[int, typer.Option("--max-tokens", min=1, help="Tokens of an answer.")]


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Where and how the questions are asked, and where the answers go."""

    url: UrlOption = "http://127.0.0.1:8000"
    model: ModelOption = ""
    api_key: ApiKeyOption = ""
    data: Annotated[
        str, typer.Option("--data", help="File or folder, or a name on the hub; without it the published data set.")
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
            help="JSON object: more fields of each request, such as "
            '{"chat_template_kwargs": {"enable_thinking": false}}.',
        ),
    ] = "{}"
    concurrency: Annotated[int, typer.Option("--concurrency", min=1, help="Requests in flight.")] = 32
    timeout: Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds a request may take.")] = 3600.0
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder; without it eval/TASK/MODEL.")] = None
    plot: Annotated[bool, typer.Option("--plot", help="Also plot; needs matplotlib (the extra `plots`).")] = False

    @property
    def more_fields(self) -> dict[str, Any]:
        """The value of --extra-body. Raises ValueError."""
        try:
            value = json.loads(self.extra_body)
        except ValueError as error:
            raise ValueError(f"--extra-body is not JSON: {error}") from None
        if not isinstance(value, dict):
            raise ValueError('--extra-body must be a JSON object, such as {"top_k": 20}')
        return value


def takes_run_options(function: Callable[..., None]) -> Callable[..., None]:
    """Give a typer command the flags of `RunOptions`; they reach its parameter `options`."""
    hints = get_type_hints(RunOptions, include_extras=True)
    own = [one for one in inspect.signature(function, eval_str=True).parameters.values() if one.name != "options"]
    shared = [
        inspect.Parameter(one.name, inspect.Parameter.KEYWORD_ONLY, default=one.default, annotation=hints[one.name])
        for one in fields(RunOptions)
    ]

    def command(**values: Any) -> None:
        options = RunOptions(**{one.name: values.pop(one.name) for one in shared})
        function(**values, options=options)

    command.__name__ = function.__name__
    command.__doc__ = function.__doc__
    vars(command)["__signature__"] = inspect.Signature([*own, *shared])
    command.__annotations__ = {one.name: one.annotation for one in (*own, *shared)}
    return command

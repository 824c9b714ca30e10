"""`gllm chat`: talk to a model in the terminal, loaded here or behind a URL."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gllm.apps.cli.configure import make_config
from gllm.apps.cli.engine_start import errors_in_one_line, offline_llm
from gllm.apps.cli.flag import takes_flags
from gllm.apps.cli.options import ENGINE_FLAGS, PROMPT_FLAGS, SOURCE_FLAGS, LogLevelOption, ModelArgument
from gllm.apps.cli.parsing import EngineCommand

if TYPE_CHECKING:
    from gllm.apps.chat.session import Backend

_FLAGS = SOURCE_FLAGS + ENGINE_FLAGS + PROMPT_FLAGS


@takes_flags(*_FLAGS)
def chat(
    model: ModelArgument = "",
    *,
    url: Annotated[
        str, typer.Option("--url", help="Talk to this OpenAI server instead; MODEL is then its name for the model.")
    ] = "",
    api_key: Annotated[
        str, typer.Option("--api-key", envvar=["GLLM_API_KEY", "OPENAI_API_KEY"], help="The server's key.")
    ] = "",
    system: Annotated[str, typer.Option("--system", help="A system prompt.")] = "",
    max_tokens: Annotated[int | None, typer.Option("--max-tokens", min=1, help="Longest answer, in tokens.")] = None,
    temperature: Annotated[float | None, typer.Option("--temperature", min=0.0, help="0 is greedy.")] = None,
    top_p: Annotated[float | None, typer.Option("--top-p", min=0.0, max=1.0)] = None,
    top_k: Annotated[int | None, typer.Option("--top-k", min=0, help="0 is all.")] = None,
    min_p: Annotated[float | None, typer.Option("--min-p", min=0.0, max=1.0)] = None,
    repetition_penalty: Annotated[float | None, typer.Option("--repetition-penalty", min=0.01)] = None,
    log_level: LogLevelOption = "error",
    flags: dict[str, Any],
) -> None:
    """Talk to a model in the terminal. /help lists the commands, Ctrl-C stops an answer, Ctrl-D leaves."""
    given: dict[str, Any] = {
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "min_p": min_p,
        "repetition_penalty": repetition_penalty,
    }
    fields = {name: value for name, value in given.items() if value is not None}
    if url:
        _refuse_engine_flags(flags)
        with errors_in_one_line():
            _chat_online(url, api_key, model, fields, system)
        return
    config = make_config(model, flags, log_level=log_level)
    with errors_in_one_line():
        from gllm.sampling_params import SamplingParams

        SamplingParams(**fields)  # refuses a wrong value before the model is loaded
        with offline_llm(config) as llm:
            from gllm.apps.chat.offline import OfflineBackend

            _talk(OfflineBackend(llm, llm.default_sampling(**fields)), config.gateway.served_model_name, system)


def _chat_online(url: str, api_key: str, model: str, fields: dict[str, Any], system: str) -> None:
    from gllm.apps.chat.online import OnlineBackend
    from gllm.apps.chat.session import ChatError

    try:
        with contextlib.closing(OnlineBackend(url, model=model, api_key=api_key, fields=fields)) as backend:
            _talk(backend, backend.connect(), system)
    except ChatError as error:
        raise RuntimeError(str(error)) from error


def _talk(backend: Backend, name: str, system: str) -> None:
    from gllm.apps.chat.session import Session

    session = Session(backend, system=system)
    if sys.stdin.isatty():
        # Importing it gives input() its line editing and history.
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401
        print(f"{name} - /help lists the commands, Ctrl-D leaves")
        session.run(lambda: input("> "))
        print()
    else:
        session.run(input)


def _refuse_engine_flags(flags: dict[str, Any]) -> None:
    """Refuse flags of the engine: with --url it runs elsewhere."""
    for flag in _FLAGS:
        if flags[flag.name] != flag.default:
            name = flag.option.strip(" /").partition("/")[0]
            raise typer.BadParameter(f"{name} is a setting of the server; leave it out with --url", param_hint=name)


def register(parent: typer.Typer) -> None:
    """Add the command to `gllm`."""
    parent.command("chat", cls=EngineCommand)(chat)

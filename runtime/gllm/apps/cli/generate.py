"""`gllm generate`: answer a file of prompts offline."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from gllm.apps.cli.configure import make_config
from gllm.apps.cli.engine_start import errors_in_one_line, offline_llm
from gllm.apps.cli.flag import takes_flags
from gllm.apps.cli.options import ENGINE_FLAGS, GATEWAY_FLAGS, PROMPT_FLAGS, SOURCE_FLAGS, LogLevelOption, ModelArgument
from gllm.apps.cli.parsing import EngineCommand
from gllm.apps.offline.batch_input import BadLine, BatchRequest, read_requests
from gllm.apps.offline.batch_output import answer_record, error_record, finished_ids, write_record
from gllm.apps.offline.prompts import Prompt
from gllm.apps.request_progress import RequestProgress
from gllm.apps.sharegpt import as_batch_lines, is_sharegpt
from gllm.sampling_params import ParameterError, SamplingParams

if TYPE_CHECKING:
    from gllm.apps.offline.llm import LLM

_FLAGS = (
    SOURCE_FLAGS
    + ENGINE_FLAGS
    + PROMPT_FLAGS
    + tuple(flag for flag in GATEWAY_FLAGS if flag.name == "served_model_name")
)

_LINES = """
Input lines, one JSON object each:

{"prompt": "Once upon a time", "max_tokens": 64}

{"messages": [{"role": "user", "content": "Hi"}], "temperature": 0, "custom_id": "greeting"}

{"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": {...}} (OpenAI's batch format)

A ShareGPT file (a JSON list of conversations) is read too: its first questions are answered by the chat template.

Output lines are OpenAI's batch output, in the order of completion. A line that cannot be answered gets a
record whose `error` names its line and field. Run the same command again to resume after an interruption, or to retry
the lines that have no answer. If a line has a `model`, it must be the served name of this run.
"""


@takes_flags(*_FLAGS)
def generate(
    model: ModelArgument = "",
    *,
    input: Annotated[str, typer.Option("--input", "-i", help="JSON lines to answer, or a ShareGPT file; - is stdin.")],
    output: Annotated[str, typer.Option("--output", "-o", help="JSON lines with the answers; - is stdout.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Answer every line again; do not resume.")] = False,
    max_tokens: Annotated[
        int,
        typer.Option("--max-tokens", min=0, help="Tokens of an answer, for lines without max_tokens; 0: what fits."),
    ] = 256,
    temperature: Annotated[
        float | None, typer.Option("--temperature", min=0.0, help="For lines without temperature; 0 is greedy.")
    ] = None,
    top_p: Annotated[float | None, typer.Option("--top-p", min=0.0, max=1.0, help="For lines without top_p.")] = None,
    log_level: LogLevelOption = "warning",
    flags: dict[str, Any],
) -> None:
    """Answer a file of prompts offline: JSON lines in and out, resumable."""
    with errors_in_one_line(), contextlib.ExitStack() as stack:
        given: dict[str, Any] = {"max_tokens": max_tokens or None, "temperature": temperature, "top_p": top_p}
        defaults = {name: value for name, value in given.items() if value is not None}
        # Check values and files before looking for a model.
        SamplingParams(**defaults)
        _check_input(input)
        done = frozenset[str]() if overwrite or output == "-" else finished_ids(Path(output))
        config = make_config(model, flags, log_level=log_level)
        name = config.gateway.served_model_name
        out = sys.stdout
        if output != "-":
            out = stack.enter_context(Path(output).open("w" if overwrite else "a", encoding="utf-8"))
        if done:
            print(f"gllm: {len(done)} lines have an answer already", file=sys.stderr)
        requests = partial(read_requests, skip=done, model=name)
        total, good = _count(input, requests, defaults)
        lines = stack.enter_context(_lines(input))
        if good:
            llm = stack.enter_context(offline_llm(config))
            with RequestProgress(total) as progress:
                run_batch(llm, requests(lines, partial(llm.default_sampling, **defaults)), out, progress, name)
        else:
            with RequestProgress(total) as progress:
                list(_good_lines(requests(lines, partial(SamplingParams, **defaults)), out, progress))
    if progress.failed:
        print(f"gllm: {progress.failed} lines have no answer; see `error` in the output", file=sys.stderr)
        raise typer.Exit(1)


def run_batch(
    llm: LLM, requests: Iterable[BatchRequest | BadLine], out: IO[str], progress: RequestProgress, model_name: str
) -> None:
    """Answer every request; each record is written as soon as its answer is complete."""
    good = _good_lines(requests, out, progress)
    for request, completion in llm.generate_unordered(good):
        if isinstance(completion, Exception):
            field = completion.param if isinstance(completion, ParameterError) else "prompt"
            _write_bad(BadLine(request.custom_id, request.line, field, str(completion)), out, progress)
            continue
        write_record(out, answer_record(request, completion, model_name, llm.tokenizer.token_text))
        tokens = sum(len(answer.token_ids) for answer in completion.outputs)
        progress.update(tokens, failed=completion.error is not None)


def _good_lines(
    requests: Iterable[BatchRequest | BadLine], out: IO[str], progress: RequestProgress
) -> Iterator[tuple[BatchRequest, Prompt, SamplingParams]]:
    """Yield the valid lines; write records of errors for the others."""
    for request in requests:
        if isinstance(request, BadLine):
            _write_bad(request, out, progress)
        else:
            yield request, request.prompt, request.sampling


def _write_bad(line: BadLine, out: IO[str], progress: RequestProgress) -> None:
    write_record(out, error_record(line.custom_id, line.line, line.field, line.message))
    progress.update(0, failed=True)


def _check_input(name: str) -> None:
    if name != "-" and not Path(name).is_file():
        raise ValueError(f"--input {name}: there is no such file")


@contextlib.contextmanager
def _lines(name: str) -> Iterator[Iterable[bytes]]:
    if name == "-":
        yield sys.stdin.buffer
        return
    path = Path(name)
    if is_sharegpt(path):
        yield as_batch_lines(path)
        return
    with path.open("rb") as file:
        yield file


def _count(
    name: str, requests: Callable[..., Iterator[BatchRequest | BadLine]], defaults: dict[str, Any]
) -> tuple[int | None, bool]:
    """Return (number of lines to answer, whether any is valid); (None, True) for stdin, which is read once."""
    if name == "-":
        return None, True
    with _lines(name) as lines:
        kinds = [isinstance(request, BatchRequest) for request in requests(lines, partial(SamplingParams, **defaults))]
    return len(kinds), any(kinds)


def register(parent: typer.Typer) -> None:
    """Add the command to `gllm`."""
    parent.command("generate", cls=EngineCommand, epilog=_LINES.strip())(generate)

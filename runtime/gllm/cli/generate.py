"""`gllm generate`: answer a file of prompts offline."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from gllm.cli.loading import offline_llm, quiet_end
from gllm.cli.options import (
    ENGINE_FLAGS,
    PROMPT_FLAGS,
    SOURCE_FLAGS,
    LogLevelOption,
    ModelArgument,
    make_config,
    takes_flags,
)
from gllm.cli.parsing import EngineCommand
from gllm.offline.batch import (
    BadLine,
    BatchRequest,
    answer_record,
    error_record,
    finished_ids,
    read_requests,
    write_record,
)
from gllm.offline.progress import ProgressLine
from gllm.sampling_params import ParameterError, SamplingParams

if TYPE_CHECKING:
    from gllm.llm import LLM
from gllm.offline.prompts import Prompt

_FLAGS = SOURCE_FLAGS + ENGINE_FLAGS + PROMPT_FLAGS

_LINES = """
Input lines, one JSON object each:

{"prompt": "Once upon a time", "max_tokens": 64}

{"messages": [{"role": "user", "content": "Hi"}], "temperature": 0, "custom_id": "greeting"}

{"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": {...}} (OpenAI's batch format)

Output lines are OpenAI's batch output, in the order in which answers get ready. A line that cannot be answered gets a
record whose `error` names its line and field. Run the same command again to go on after an interruption.
"""


@takes_flags(*_FLAGS)
def generate(
    model: ModelArgument = "",
    *,
    input: Annotated[str, typer.Option("--input", "-i", help="JSON lines to answer; - is stdin.")],
    output: Annotated[str, typer.Option("--output", "-o", help="JSON lines with the answers; - is stdout.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Answer everything anew; do not resume.")] = False,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", min=0, help="Longest answer, for lines that do not say; 0: what fits.")
    ] = 256,
    temperature: Annotated[
        float | None, typer.Option("--temperature", min=0.0, help="For lines that do not say; 0 is greedy.")
    ] = None,
    top_p: Annotated[float | None, typer.Option("--top-p", min=0.0, max=1.0, help="For lines that do not say.")] = None,
    log_level: LogLevelOption = "warning",
    flags: dict[str, Any],
) -> None:
    """Answer a file of prompts offline: JSON lines in and out, resumable."""
    config = make_config(model, flags, log_level=log_level)
    with quiet_end(), contextlib.ExitStack() as stack:
        given: dict[str, Any] = {"max_tokens": max_tokens or None, "temperature": temperature, "top_p": top_p}
        defaults = {name: value for name, value in given.items() if value is not None}
        # Wrong values and files are told before a model is loaded.
        SamplingParams(**defaults)
        lines, total = _open_input(input, stack)
        done = frozenset[str]() if overwrite or output == "-" else finished_ids(Path(output))
        out = sys.stdout
        if output != "-":
            out = stack.enter_context(Path(output).open("w" if overwrite else "a", encoding="utf-8"))
        if done:
            print(f"gllm: {len(done)} answers are there already", file=sys.stderr)
        line = ProgressLine(None if total is None else max(0, total - len(done)))
        llm = stack.enter_context(offline_llm(config))
        try:
            run_batch(llm, lines, out, defaults, done, line, config.gateway.served_model_name)
        finally:
            line.finish()
    if line.failed:
        print(f"gllm: {line.failed} lines have no answer; see `error` in the output", file=sys.stderr)
        raise typer.Exit(1)


def run_batch(
    llm: LLM,
    lines: Iterable[bytes],
    out: IO[str],
    defaults: dict[str, Any],
    done: frozenset[str],
    progress: ProgressLine,
    model_name: str,
) -> None:
    """Answer every line whose id is not in `done`, writing each record as soon as it is there.

    defaults: sampling parameters for lines that do not set them; the rest is the model's own.
    """
    default = partial(_with_defaults, llm, defaults)

    def fail(custom_id: str, number: int, field: str, message: str) -> None:
        write_record(out, error_record(custom_id, number, field, message))
        progress.update(0, failed=True)

    def good_lines() -> Iterator[tuple[BatchRequest, Prompt, SamplingParams]]:
        for request in read_requests(lines, default, done):
            if isinstance(request, BadLine):
                fail(request.custom_id, request.line, request.field, request.message)
            else:
                yield request, request.prompt, request.sampling

    for request, completion in llm.generate_unordered(good_lines()):
        if isinstance(completion, Exception):
            field = completion.param if isinstance(completion, ParameterError) else "prompt"
            fail(request.custom_id, request.line, field, str(completion))
            continue
        write_record(out, answer_record(request, completion, model_name, llm.tokenizer.token_text))
        tokens = sum(len(answer.token_ids) for answer in completion.outputs)
        progress.update(tokens, failed=completion.error is not None)


def _with_defaults(llm: LLM, defaults: dict[str, Any], **overrides: Any) -> SamplingParams:
    return llm.default_sampling(**{**defaults, **overrides})


def _open_input(name: str, stack: contextlib.ExitStack) -> tuple[Iterable[bytes], int | None]:
    """(lines, how many, if that can be known)"""
    if name == "-":
        return sys.stdin.buffer, None
    with Path(name).open("rb") as file:
        total = sum(1 for line in file if line.strip())
    return stack.enter_context(Path(name).open("rb")), total


def register(parent: typer.Typer) -> None:
    """Add the command to `gllm`."""
    parent.command("generate", cls=EngineCommand, epilog=_LINES.strip())(generate)

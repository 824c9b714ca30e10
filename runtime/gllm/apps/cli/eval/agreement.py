"""`gllm eval agreement`: a served model beside transformers, the quality gate of every precision."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import typer

from gllm.apps.bench.client import Endpoint
from gllm.apps.bench.serving import find_model
from gllm.apps.cli.engine_start import errors_in_one_line
from gllm.apps.cli.eval.flags import ServerFlags
from gllm.apps.cli.flag_groups import takes_groups
from gllm.apps.eval.agreement import Agreement, measure, windows
from gllm.apps.eval.client import RequestFailed
from gllm.apps.eval.dataset import read_rows
from gllm.apps.eval.sample_text import PROMPTS, TEXT
from gllm.apps.eval.served import ServedModel
from gllm.apps.request_progress import RequestProgress
from gllm.terminal import print_table


@dataclass(frozen=True)
class Limits:
    """The gate: an agreement passes if it keeps both."""

    least_agreement: float
    most_perplexity_increase: float

    def failures(self, found: Agreement) -> list[str]:
        """Return a sentence for each limit that is not kept."""
        failed = []
        if found.tokens.value < self.least_agreement:
            failed.append(
                f"agreement {100 * found.tokens.value:.2f} % is below --min-agreement {self.least_agreement:g}"
            )
        if found.perplexity_increase > self.most_perplexity_increase:
            increase = f"{100 * found.perplexity_increase:.2f} %"
            limit = f"--max-perplexity-increase {self.most_perplexity_increase:g}"
            failed.append(f"the perplexity is {increase} higher than the reference's, more than {limit} allows")
        return failed


@takes_groups
def agreement(
    server: ServerFlags,
    *,
    reference: Annotated[
        str,
        typer.Option(
            "--reference",
            help="The original checkpoint, for transformers: a folder, GGUF file or name on the hub.",
            show_default="the default model",
        ),
    ] = "",
    reference_dtype: Annotated[
        Literal["float32", "bfloat16", "float16"], typer.Option("--reference-dtype", help="Precision of the reference.")
    ] = "float32",
    reference_device: Annotated[
        str, typer.Option("--reference-device", help="Device of the reference: cpu, cuda or cuda:N.")
    ] = "cpu",
    prompts: Annotated[
        Path | None, typer.Option("--prompts", help='JSON lines with a "prompt" each.', show_default="16 of our own")
    ] = None,
    text: Annotated[
        Path | None, typer.Option("--text", help="Text for the perplexity.", show_default="a page of our own")
    ] = None,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, help="Tokens of a greedy answer.")] = 64,
    window: Annotated[int, typer.Option("--window", min=2, help="Tokens of the text that are read together.")] = 512,
    min_agreement: Annotated[
        float, typer.Option("--min-agreement", min=0.0, max=1.0, help="Share of equal greedy choices that passes.")
    ] = 0.95,
    max_perplexity_increase: Annotated[
        float, typer.Option("--max-perplexity-increase", help="Increase that passes; 0.01 is one percent.")
    ] = 0.01,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File for all figures, as JSON.")] = None,
) -> None:
    """Compare a served model with transformers: greedy choices and perplexity; status 1 if it does not pass."""
    from gllm.config import ModelSource
    from gllm.hub.default_model import default_model_path
    from gllm.hub.locate import locate
    from gllm.text.tokenizer import load_tokenizer

    limits = Limits(min_agreement, max_perplexity_increase)
    with errors_in_one_line():
        asked = _read_prompts(prompts) if prompts is not None else PROMPTS
        passage = text.read_text(encoding="utf-8") if text is not None else TEXT
        checkpoint = default_model_path()
        if reference:
            checkpoint, _ = locate(reference, ModelSource(), weights=True, report=_report)
        tokenizer = load_tokenizer(checkpoint)
        prompt_tokens = [tokenizer.encode(prompt) for prompt in asked]
        texts = windows(tokenizer.encode(passage), window)
        served = asyncio.run(find_model(Endpoint.from_url(server.url, api_key=server.api_key), server.model))

        async def ask() -> tuple[list[list[int]], list[list[float]]]:
            with RequestProgress(len(prompt_tokens) + len(texts)) as progress:
                async with server.client() as client:
                    asker = ServedModel(client, served.name, concurrency=server.concurrency, on_done=progress.update)
                    return await asker.answers(prompt_tokens, max_tokens), await asker.logprobs(texts)

        try:
            answers, logprobs = asyncio.run(ask())
        except RequestFailed as error:
            raise ValueError(str(error)) from None
        found = _compare(checkpoint, reference_dtype, reference_device, prompt_tokens, answers, texts, logprobs)
    columns, rows = _table(found, limits)
    print_table(columns, rows, title=f"{served.name} and {checkpoint.name} in transformers ({reference_dtype})")
    failed = limits.failures(found)
    if output is not None:
        figures = {
            "model": served.name,
            "reference": str(checkpoint),
            "reference_dtype": reference_dtype,
            "url": server.url,
            "passed": not failed,
            "perplexity_increase": found.perplexity_increase,
            **msgspec.to_builtins(found),
        }
        output.write_text(json.dumps(figures, indent=1) + "\n")
    for sentence in failed:
        print(f"gllm: {sentence}", file=sys.stderr)
    if failed:
        raise typer.Exit(1)


def _compare(
    checkpoint: Path,
    dtype: str,
    device: str,
    prompts: list[list[int]],
    answers: list[list[int]],
    texts: list[list[int]],
    logprobs: list[list[float]],
) -> Agreement:
    """Load the reference and compare. Raises ValueError."""
    from gllm.apps.eval.reference import Reference

    judge = Reference(checkpoint, dtype=dtype, device=device)
    pairs = zip(prompts, answers, strict=True)
    return measure(
        [judge.compare(prompt, answer) for prompt, answer in pairs if answer],
        [value for values in logprobs for value in values],
        [value for tokens in texts for value in judge.logprobs(tokens)],
    )


def _table(found: Agreement, limits: Limits) -> tuple[list[str], list[list[str]]]:
    tokens, median = found.tokens, found.median_divergence
    return ["figure", "value", "passes if"], [
        [
            "equal greedy choices",
            f"{100 * tokens.value:.2f} % [{100 * tokens.low:.2f}, {100 * tokens.high:.2f}] of {tokens.outcomes} tokens",
            f"at least {100 * limits.least_agreement:g} %",
        ],
        ["answers without a difference", f"{found.equal_answers} of {found.answers}", ""],
        ["first difference (median)", "" if median is None else f"token {median + 1:g}", ""],
        ["largest gap of a different choice", f"{found.largest_gap:.3f} nats", ""],
        ["perplexity", f"{found.perplexity:.4f} ({found.text_tokens} tokens)", ""],
        ["perplexity of the reference", f"{found.reference_perplexity:.4f}", ""],
        [
            "increase",
            f"{100 * found.perplexity_increase:+.3f} %",
            f"at most {100 * limits.most_perplexity_increase:g} %",
        ],
        ["error of a token's log-probability (mean)", f"{found.mean_logprob_error:.4f}", ""],
        ["error of a token's log-probability (largest)", f"{found.largest_logprob_error:.4f}", ""],
    ]


def _read_prompts(path: Path) -> tuple[str, ...]:
    """Read the prompts of JSON lines. Raises ValueError that names the line."""
    rows = read_rows(path)
    for number, row in enumerate(rows, start=1):
        if not isinstance(row.get("prompt"), str) or not row["prompt"]:
            raise ValueError(f"--prompts {path}: row {number} has no text under 'prompt'")
    if not rows:
        raise ValueError(f"--prompts {path} is empty")
    return tuple(row["prompt"] for row in rows)


def _report(line: str) -> None:
    print(f"gllm: {line}", file=sys.stderr)

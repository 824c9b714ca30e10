"""`gllm bench prefix`."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from gllm.apps.bench.arrivals import Arrivals
from gllm.apps.bench.datasets.load import Dataset, load_requests
from gllm.apps.bench.prompt_writer import Counter
from gllm.apps.bench.record import RequestRecord
from gllm.apps.bench.requests import BenchRequest
from gllm.apps.bench.rounds import Round, by_round, columns, rows
from gllm.apps.cli.bench.load_flags import LoadPlan
from gllm.apps.cli.bench.run import WARMUP_SEED, find_target
from gllm.apps.cli.bench.style_flags import StyleFlags
from gllm.apps.cli.configure import make_config
from gllm.apps.cli.engine_start import errors_in_one_line
from gllm.apps.cli.flag import takes_flags
from gllm.apps.cli.flag_groups import takes_groups
from gllm.apps.cli.options import ENGINE_FLAGS, SOURCE_FLAGS, LogLevelOption, ModelArgument
from gllm.apps.request_progress import RequestProgress
from gllm.terminal import print_table


def _option(*names: str, help: str, **settings: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel="Conversations", **settings)


@dataclass(frozen=True, kw_only=True)
class ConversationFlags:
    """Users and what they say."""

    users: Annotated[int, _option("--users", min=1, help="Conversations; each waits for its answers.")] = 16
    rounds: Annotated[int, _option("--rounds", min=1, help="Questions of each user.")] = 4
    prefix_len: Annotated[int, _option("--prefix-len", min=0, help="Tokens of a shared system prompt.")] = 256
    num_prefixes: Annotated[int, _option("--num-prefixes", min=1, help="System prompts; users share them.")] = 1
    input_len: Annotated[int, _option("--input-len", min=1, help="Tokens of a question.")] = 64
    output_len: Annotated[int, _option("--output-len", min=1, help="Tokens of an answer.")] = 32
    max_concurrency: Annotated[
        int | None, _option("--max-concurrency", min=1, help="Most users at a time.", show_default="all")
    ] = None
    seed: Annotated[int, _option("--seed", help="The same seed sends the same requests.")] = 0

    def dataset(self) -> Dataset:
        return Dataset(
            name="multi-turn",
            turns=self.rounds,
            system_len=self.prefix_len,
            system_prompts=self.num_prefixes,
            input_len=self.input_len,
            output_len=self.output_len,
        )

    def requests(
        self, *, users: int, seed: int, count_tokens: Counter | None = None, max_model_len: int | None = None
    ) -> list[BenchRequest]:
        return load_requests(
            self.dataset(),
            users * self.rounds,
            seed=seed,
            arrivals=lambda count: Arrivals().times(count, seed),
            token_range=(0, 1),
            text=True,
            count_tokens=count_tokens,
            max_model_len=max_model_len,
        )


@takes_flags(
    *SOURCE_FLAGS, *(flag for flag in ENGINE_FLAGS if flag.name not in ("seed", "trace", "enable_prefix_caching"))
)
@takes_groups
def prefix(
    model: ModelArgument = "",
    *,
    talk: ConversationFlags,
    url: Annotated[
        str, typer.Option("--url", help="Measure this OpenAI server instead, as it is; it must report cached tokens.")
    ] = "",
    api_key: Annotated[str, typer.Option("--api-key", envvar="OPENAI_API_KEY", help="Bearer token for --url.")] = "",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Also write the rounds as JSON.")] = None,
    log_level: LogLevelOption = "warning",
    flags: dict[str, Any],
) -> None:
    """Many users, several rounds, shared prefixes: hit rate and TTFT by round, with and without the prefix cache.

    Starts the engine twice. Each round of a user repeats the history before it.
    """
    found: dict[str, list[Round]] = {}
    failures: list[str] = []
    with errors_in_one_line():
        if url:
            if model:
                raise ValueError(f"--url measures a server that runs, so leave out {model}")
            requests, records = _ask_server(StyleFlags(url=url, api_key=api_key, endpoint="chat"), talk)
            if all(record.cached_tokens is None for record in records):
                print(
                    "gllm: warning: the server does not report cached tokens (usage.prompt_tokens_details)",
                    file=sys.stderr,
                )
            found["with_prefix_cache"] = by_round(requests, records)
            failures = [record.error for record in records if not record.ok]
        else:
            for name, caching in (("with_prefix_cache", True), ("without_prefix_cache", False)):
                changed = {**flags, "seed": talk.seed, "enable_prefix_caching": caching}
                requests, records = _run_engine(make_config(model, changed, log_level=log_level), talk, name)
                found[name] = by_round(requests, records)
                failures += [record.error for record in records if not record.ok]
    without = found.get("without_prefix_cache", [])
    print_table(columns(compared=not url), rows(found["with_prefix_cache"], without))
    if output is not None:
        rounds = {
            name: [{**msgspec.to_builtins(one), "hit_rate": one.hit_rate} for one in several]
            for name, several in found.items()
        }
        settings = {"url": url} if url else {"model": model}
        output.write_text(json.dumps({**settings, **msgspec.to_builtins(talk), **rounds}, indent=1) + "\n")
    if failures:
        print(f"{len(failures)} requests failed; the first: {failures[0]}", file=sys.stderr)
        raise typer.Exit(1)


def _run_engine(config: Any, talk: ConversationFlags, name: str) -> tuple[list[BenchRequest], Sequence[RequestRecord]]:
    """Run all conversations on an engine of their own, after one conversation as warm-up."""
    from gllm.apps.bench.throughput import run_offline, with_token_ids
    from gllm.apps.cli.engine_start import offline_llm

    with offline_llm(config) as llm:

        def draw(users: int, seed: int) -> list[BenchRequest]:
            drawn = talk.requests(
                users=users,
                seed=seed,
                count_tokens=lambda text: len(llm.tokenizer.encode(text, add_special_tokens=False)),
                max_model_len=llm.max_model_len,
            )
            return [with_token_ids(request, llm) for request in drawn]

        run = partial(run_offline, llm.engine.client, max_concurrency=talk.max_concurrency)
        llm.engine.call(run(draw(1, talk.seed + WARMUP_SEED), prefix="warmup"))
        requests = draw(talk.users, talk.seed)
        print(f"gllm: {name.replace('_', ' ')}: {len(requests)} requests", file=sys.stderr)
        with RequestProgress(len(requests)) as progress:
            records, _ = llm.engine.call(
                run(requests, on_done=lambda record: progress.update(record.output_tokens, failed=not record.ok))
            )
    return requests, records


def _ask_server(flags: StyleFlags, talk: ConversationFlags) -> tuple[list[BenchRequest], Sequence[RequestRecord]]:
    target = asyncio.run(find_target(flags))
    dataset = talk.dataset()
    plan = LoadPlan(count=talk.rounds, arrivals=Arrivals(), steady=None, seed=talk.seed)
    target.warm_up(dataset, plan, talk.rounds, None)
    requests = target.requests(dataset, msgspec.structs.replace(plan, count=talk.users * talk.rounds))
    records, _ = target.run(requests, talk.max_concurrency)
    return requests, records

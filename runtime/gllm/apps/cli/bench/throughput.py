"""`gllm bench throughput`."""

from __future__ import annotations

from functools import partial
from typing import Any

import msgspec

from gllm.apps.bench.arrivals import Arrivals
from gllm.apps.bench.datasets.load import load_requests
from gllm.apps.bench.prompt_writer import token_range_for
from gllm.apps.cli.bench.data_flags import DataFlags
from gllm.apps.cli.bench.offline_flags import OfflineFlags
from gllm.apps.cli.bench.report_flags import ReportFlags
from gllm.apps.cli.bench.run import WARMUP_SEED
from gllm.apps.cli.bench.serve import OldWorkload, Warmups
from gllm.apps.cli.configure import make_config
from gllm.apps.cli.engine_start import errors_in_one_line
from gllm.apps.cli.flag import takes_flags
from gllm.apps.cli.flag_groups import takes_groups
from gllm.apps.cli.options import ENGINE_FLAGS, SOURCE_FLAGS, LogLevelOption, ModelArgument
from gllm.apps.request_progress import RequestProgress


@takes_flags(*SOURCE_FLAGS, *(flag for flag in ENGINE_FLAGS if flag.name not in ("seed", "trace")))
@takes_groups
def throughput(
    model: ModelArgument = "",
    *,
    data: DataFlags,
    load: OfflineFlags,
    figures: ReportFlags,
    trace: OldWorkload = None,
    num_warmups: Warmups = 0,
    log_level: LogLevelOption = "warning",
    flags: dict[str, Any],
) -> None:
    """Run requests through the engine without HTTP, all at once, and print the figures."""
    config = make_config(model, {**flags, "seed": load.seed}, log_level=log_level)
    with errors_in_one_line():
        figures.check()
        dataset = (data if trace is None else data.with_workload(trace)).dataset()

    from gllm.apps.bench.throughput import run_offline, with_token_ids
    from gllm.apps.cli.engine_start import offline_llm

    with errors_in_one_line(), offline_llm(config) as llm:

        def draw(count: int | None, seed: int) -> Any:
            requests = load_requests(
                dataset,
                count,
                seed=seed,
                arrivals=lambda count: Arrivals().times(count, seed),
                token_range=token_range_for(llm.model_config.vocab_size),
                max_model_len=llm.max_model_len,
                count_tokens=(lambda text: len(llm.tokenizer.encode(text))) if dataset.has_text else None,
            )
            return [with_token_ids(request, llm) for request in requests]

        run = partial(run_offline, llm.engine.client, ignore_eos=load.ignore_eos, max_concurrency=load.max_concurrency)
        requests = draw(load.num_prompts or dataset.default_count(), load.seed)
        if num_warmups:
            llm.engine.call(run(draw(num_warmups, load.seed + WARMUP_SEED), prefix="warmup"))
        with RequestProgress(len(requests)) as progress:
            records, duration = llm.engine.call(
                run(requests, on_done=lambda record: progress.update(record.output_tokens, failed=not record.ok))
            )
    figures.finish(
        records,
        duration,
        {
            "backend": "gllm-offline",
            "model": config.engine.model,
            "engine": msgspec.to_builtins(config.engine),
            **dataset.settings(),
            "num_prompts": len(requests),
            "max_concurrency": load.max_concurrency,
            "num_warmups": num_warmups,
            "seed": load.seed,
            "ignore_eos": load.ignore_eos,
        },
        title="Offline Throughput Result",
    )

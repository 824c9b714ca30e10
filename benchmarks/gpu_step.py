"""Time of single steps on a GPU, without the engine: how long the device works and how long the host launches.

    python benchmarks/gpu_step.py benchmarks/shapes/qwen3-8b [--profile FILE]

Prints, for decode batches and prefill chunks, milliseconds a step as the device sees it and as the host does;
where the host's figure is the larger one, the device waits for it.
"""

from __future__ import annotations

import argparse
import random
import time

import torch

from gllm.config import EngineConfig
from gllm.models.families import load_model_config
from gllm.sampling_params import SamplingParams
from gllm.wire.messages import Configure, NewSequence, SchedulerOutput
from gllm.worker.build import WorkerBuilder
from gllm.worker.runner import ModelRunner

CONTEXT = 512
PAGE = 16


def _prompt(seed: int, length: int) -> list[int]:
    """Tokens that differ: equal ones would all be routed to the same experts."""
    rng = random.Random(seed)
    return [rng.randrange(1000, 30000) for _ in range(length)]


def _register(runner: ModelRunner, rows: int, prompt: int) -> None:
    per_row = -(-(prompt + 128) // PAGE)
    sampling = SamplingParams(temperature=0.0, seed=0, max_tokens=None)
    for slot in range(rows):
        pages = list(range(slot * per_row, (slot + 1) * per_row))
        sequence = NewSequence(
            slot=slot,
            token_ids=_prompt(slot, prompt),
            num_prompt_tokens=prompt,
            num_computed_tokens=prompt - 1,
            pages=pages,
            sampling=sampling,
        )
        runner.launch(
            SchedulerOutput(epoch=0, step=0, slots=[], num_tokens=[], samples=[], pages=[], new=[sequence], freed=[])
        )


def _time(runner: ModelRunner, plans: list[SchedulerOutput]) -> tuple[float, float]:
    """(device ms, host ms) a step; steps are launched as the engine does, two in flight."""
    torch.cuda.synchronize()
    steps, host = [], 0.0
    started = time.perf_counter()
    for index, plan in enumerate(plans):
        before = time.perf_counter()
        steps.append(runner.launch(plan))
        host += time.perf_counter() - before
        if index >= 1:
            steps[index - 1].collect()
    torch.cuda.synchronize()
    wall = time.perf_counter() - started
    return wall / len(plans) * 1e3, host / len(plans) * 1e3


def _weights_read(builder: WorkerBuilder, rows: int) -> float:
    """Bytes of weights that a decode step reads: of experts those that `rows` tokens hit, if routing is even."""
    model, total = builder.model_config, float(builder.model.weight_bytes)
    if model.moe is None:
        return total
    moe, sparse = model.moe, sum(map(model.has_experts, range(model.num_layers)))
    experts = sparse * moe.num_experts * 3 * model.hidden_size * moe.intermediate_size * builder.platform.dtype.itemsize
    missed = (1 - moe.experts_per_token / moe.num_experts) ** rows
    return total - experts * missed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--profile", help="write a Chrome trace of a few decode steps")
    options = parser.parse_args()
    config = EngineConfig(
        model=options.model, load_format="dummy", device="cuda", num_pages=30000, max_num_seqs=512, max_model_len=8192
    )
    started = time.perf_counter()
    builder = WorkerBuilder(config, load_model_config(config.model), lambda done: None)
    print(f"model ready in {time.perf_counter() - started:.1f} s, {builder.model.weight_bytes / 2**30:.1f} GiB")
    runner = builder.runner(Configure(num_pages=config.num_pages, max_model_len=config.max_model_len))
    print(f"warm in {time.perf_counter() - started:.1f} s")
    print(f"{'step':>24} {'wall ms':>9} {'host ms':>9} {'tok/s':>9} {'GB/s':>7}")
    for rows in (1, 8, 32, 64, 128, 256, 512):
        _register(runner, rows, CONTEXT)
        plans = [
            SchedulerOutput(
                epoch=0,
                step=i,
                slots=list(range(rows)),
                num_tokens=[1] * rows,
                samples=[True] * rows,
                pages=[],
                new=[],
                freed=[],
            )
            for i in range(24)
        ]
        _time(runner, plans[:4])
        wall, host = _time(runner, plans[4:])
        moved = _weights_read(builder, rows) + rows * (CONTEXT + 16) * builder.shape.page_bytes / PAGE
        print(f"{f'decode {rows}':>24} {wall:9.2f} {host:9.2f} {rows / wall * 1e3:9.0f} {moved / wall / 1e6:7.0f}")
    for tokens in (512, 2048, 8192):
        sampling = SamplingParams(temperature=0.0, seed=0)
        sequence = NewSequence(
            slot=0,
            token_ids=_prompt(0, tokens),
            num_prompt_tokens=tokens,
            num_computed_tokens=0,
            pages=list(range(-(-tokens // PAGE))),
            sampling=sampling,
        )
        plan = SchedulerOutput(
            epoch=0, step=0, slots=[0], num_tokens=[tokens], samples=[True], pages=[], new=[sequence], freed=[]
        )
        _time(runner, [plan] * 2)
        wall, host = _time(runner, [plan] * 6)
        print(f"{f'prefill {tokens}':>24} {wall:9.2f} {host:9.2f} {tokens / wall * 1e3:9.0f}")
    if options.profile:
        _register(runner, 256, CONTEXT)
        plans = [
            SchedulerOutput(
                epoch=0,
                step=i,
                slots=list(range(256)),
                num_tokens=[1] * 256,
                samples=[True] * 256,
                pages=[],
                new=[],
                freed=[],
            )
            for i in range(6)
        ]
        activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
        with torch.profiler.profile(activities=activities) as profile:
            _time(runner, plans)
        print(profile.key_averages().table(sort_by="cuda_time_total", row_limit=20, max_name_column_width=60))
        profile.export_chrome_trace(options.profile)


if __name__ == "__main__":
    main()

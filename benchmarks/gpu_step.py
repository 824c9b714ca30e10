"""Measure single steps on a GPU without the engine: the time of the device and the time of the host's launches.

    python benchmarks/gpu_step.py benchmarks/shapes/qwen3-8b [--layers N] [--eager] [--profile FILE]
    python benchmarks/gpu_step.py benchmarks/shapes/qwen2.5-32b --tp 2

The program prints milliseconds per step on the device and on the host, for decode batches, prefill chunks, and steps
with both. If the host's figure is larger, the device waits for the host. With --profile it also prints the kernels of
one layer in their order.
"""

from __future__ import annotations

import argparse
import os
import random
import socket
import subprocess
import sys
import time
from itertools import pairwise

import msgspec
import torch

from gllm.config import EngineConfig
from gllm.models.families import load_model_config
from gllm.parallel.world import leave_world
from gllm.sampling_params import SamplingParams
from gllm.wire.messages import Configure, NewSequence, SchedulerOutput
from gllm.worker.build import WorkerBuilder
from gllm.worker.runner import ModelRunner

CONTEXT = 512
MIXED = [(32, 96), (128, 128), (192, 192), (256, 256), (256, 768)]
"""(decode rows, tokens of a prompt) of a step with both."""
PAGE = 16


def _prompt(seed: int, length: int) -> list[int]:
    """Return distinct tokens: equal ones would all be routed to the same experts."""
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
        runner.launch(_output(0, [], [], [sequence]))


def _output(
    step: int, slots: list[int], num_tokens: list[int], new: list[NewSequence] | None = None
) -> SchedulerOutput:
    """Return a scheduler output in which every slot samples."""
    return SchedulerOutput(
        epoch=0,
        step=step,
        slots=slots,
        num_tokens=num_tokens,
        samples=[True] * len(slots),
        pages=[],
        new=new or [],
        freed=[],
    )


def _decodes(rows: int, steps: int) -> list[SchedulerOutput]:
    """Return `steps` decode steps of slots 0 to `rows` - 1."""
    return [_output(step, list(range(rows)), [1] * rows) for step in range(steps)]


def _mixed(rows: int, tokens: int, steps: int = 8) -> list[SchedulerOutput]:
    """Return steps of slots 0 to `rows` - 1 in which the next slot also prefills a prompt of `tokens` tokens."""
    first = rows * (-(-(CONTEXT + 128) // PAGE))
    sequence = NewSequence(
        slot=rows,
        token_ids=_prompt(rows, tokens),
        num_prompt_tokens=tokens,
        num_computed_tokens=0,
        pages=list(range(first, first - (-tokens // PAGE))),
        sampling=SamplingParams(temperature=0.0, seed=0),
    )
    return [_output(step, list(range(rows + 1)), [1] * rows + [tokens], [sequence]) for step in range(steps)]


def _time(runner: ModelRunner, outputs: list[SchedulerOutput]) -> tuple[float, float]:
    """Return (device ms, host ms) per step; two steps are in flight, as with the engine."""
    torch.cuda.synchronize()
    steps, host = [], 0.0
    started = time.perf_counter()
    for index, output in enumerate(outputs):
        before = time.perf_counter()
        steps.append(runner.launch(output))
        host += time.perf_counter() - before
        if index >= 1:
            steps[index - 1].collect()
    torch.cuda.synchronize()
    wall = time.perf_counter() - started
    return wall / len(outputs) * 1e3, host / len(outputs) * 1e3


def _print_layer(profile: torch.profiler.profile) -> None:
    """Print the kernels between two MLP activations near the end, with their time and the gap that follows."""
    events = [event for event in profile.events() or [] if event.device_type == torch.autograd.DeviceType.CUDA]
    kernels = [(event.name, event.time_range) for event in sorted(events, key=lambda event: event.time_range.start)]
    gates = [index for index, (name, _) in enumerate(kernels) if "act_and_mul" in name or "_gated" in name]
    first, last = gates[len(gates) * 7 // 8 - 1 : len(gates) * 7 // 8 + 1]
    for (name, span), (_, following) in pairwise(kernels[first : last + 1]):
        print(f"    {span.end - span.start:7.1f} us, then {following.start - span.end:5.1f}  {name[:80]}")
    print(f"    {kernels[last][1].start - kernels[first][1].start:7.1f} us in all")


def _weights_read(builder: WorkerBuilder, rows: int) -> float:
    """Return the bytes of weights that a decode step reads, with the experts that `rows` tokens hit at even routing."""
    model, total = builder.model_config, float(builder.model.weight_bytes)
    if model.moe is None:
        return total
    moe, sparse = model.moe, sum(map(model.has_experts, range(model.num_layers)))
    experts = sparse * moe.num_experts * 3 * model.hidden_size * moe.intermediate_size * builder.platform.dtype.itemsize
    missed = (1 - moe.experts_per_token / moe.num_experts) ** rows
    return total - experts * missed


def _start_ranks(count: int) -> None:
    """Run this program once for each rank. All run the same steps, the first prints."""
    address = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1"}
    with socket.create_server(("127.0.0.1", 0)) as server:
        address["MASTER_PORT"] = str(server.getsockname()[1])
    processes = [
        subprocess.Popen(
            [sys.executable, *sys.argv],
            env=os.environ | address | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.DEVNULL if rank else None,
        )
        for rank in range(count)
    ]
    codes = [process.wait() for process in processes]
    if any(codes):
        raise SystemExit(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--tp", type=int, default=1, help="tensor-parallel ranks, one for each GPU")
    parser.add_argument("--layers", type=int, help="layers of the model, fewer than it has: a stage of a pipeline")
    parser.add_argument("--profile", help="write a Chrome trace of a few mixed steps here")
    parser.add_argument("--eager", action="store_true", help="without CUDA graphs, as `gllm serve --enforce-eager`")
    options = parser.parse_args()
    if options.tp > 1 and "RANK" not in os.environ:
        _start_ranks(options.tp)
        return
    rank = int(os.environ.get("RANK", "0"))
    config = EngineConfig(
        model=options.model,
        tp=options.tp,
        load_format="dummy",
        device="cuda",
        num_pages=30000,
        max_num_seqs=512,
        max_model_len=8192,
        enforce_eager=options.eager,
    )
    started = time.perf_counter()
    model_config = load_model_config(config.model)
    model_config = msgspec.structs.replace(model_config, num_layers=options.layers or model_config.num_layers)
    builder = WorkerBuilder(config, model_config, lambda done: None, rank)
    print(f"model ready in {time.perf_counter() - started:.1f} s, {builder.model.weight_bytes / 2**30:.1f} GiB")
    runner = builder.runner(Configure(num_pages=config.num_pages, max_model_len=config.max_model_len))
    print(f"warm in {time.perf_counter() - started:.1f} s")
    print(f"{'step':>24} {'wall ms':>9} {'host ms':>9} {'tok/s':>9} {'GB/s':>7}")
    for rows in (1, 8, 32, 64, 128, 256, 512):
        _register(runner, rows, CONTEXT)
        steps = _decodes(rows, 24)
        _time(runner, steps[:4])
        wall, host = _time(runner, steps[4:])
        moved = _weights_read(builder, rows) + rows * (CONTEXT + 16) * builder.shape.page_bytes / PAGE
        print(f"{f'decode {rows}':>24} {wall:9.2f} {host:9.2f} {rows / wall * 1e3:9.0f} {moved / wall / 1e6:7.0f}")
    for tokens in (128, 512, 1024, 2048, 8192):
        prefill = _mixed(0, tokens)
        _time(runner, prefill[:2])
        wall, host = _time(runner, prefill[2:])
        print(f"{f'prefill {tokens}':>24} {wall:9.2f} {host:9.2f} {tokens / wall * 1e3:9.0f}")
    for rows, tokens in MIXED:
        _register(runner, rows, CONTEXT)
        mixed = _mixed(rows, tokens)
        _time(runner, mixed[:2])
        wall, host = _time(runner, mixed[2:])
        print(f"{f'decode {rows} + prefill {tokens}':>24} {wall:9.2f} {host:9.2f} {(rows + tokens) / wall * 1e3:9.0f}")
    if options.profile:
        for rows in (1, 32, 192):
            _register(runner, rows, CONTEXT)
            for steps in (_decodes(rows, 4), _mixed(rows, 192)):
                with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
                    _time(runner, steps)
                print(f"a layer with {rows} decodes" + (" and a prompt of 192 tokens" if len(steps[0].new) else ""))
                _print_layer(profile)
        profile.export_chrome_trace(options.profile)
    leave_world()


if __name__ == "__main__":
    main()
